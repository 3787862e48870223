"""Feature bits that have a property: it is obeyed, whatever the back-end has."""

from collections.abc import Mapping
from contextlib import ExitStack

import pytest

from qap.machine.catalog import device_types, vhost_user_types
from qap.machine.device import Device
from qap.machine.spec import Spec
from qap.oracle.features import mask
from qap.verify.kit.lab import Lab
from qap.verify.kit.ring_properties import LEGACY_ONLY, RING_PROPERTIES
from qap.virtio.transports import RAM_MIB, TRANSPORTS

OLD_MACHINE = "pc-q35-9.2"
# virtio 1.3, 5.1.3: network device.
NET: Mapping[int, str] = {
    0: "csum",
    1: "guest_csum",
    2: "ctrl_guest_offloads",
    6: "gso",
    7: "guest_tso4",
    8: "guest_tso6",
    9: "guest_ecn",
    10: "guest_ufo",
    11: "host_tso4",
    12: "host_tso6",
    13: "host_ecn",
    14: "host_ufo",
    15: "mrg_rxbuf",
    16: "status",
    17: "ctrl_vq",
    18: "ctrl_rx",
    19: "ctrl_vlan",
    20: "ctrl_rx_extra",
    21: "guest_announce",
    22: "mq",
    23: "ctrl_mac_addr",
    54: "guest_uso4",
    55: "guest_uso6",
    56: "host_uso",
    57: "hash",
    60: "rss",
    61: "guest_rsc_ext",
}
# 5.2.3: block device.
BLK: Mapping[int, str] = {11: "config-wce", 13: "discard", 14: "write-zeroes"}
# 5.6.3: SCSI host.
SCSI: Mapping[int, str] = {1: "hotplug", 2: "param_change"}
# 5.7.3: GPU device.
GPU: Mapping[int, str] = {1: "edid"}
OWN: Mapping[str, Mapping[int, str]] = {
    "virtio-blk": BLK,
    "virtio-net": NET,
    "virtio-serial": {2: "emergency-write"},
    "virtio-scsi": SCSI,
    # 5.5.3: memory balloon
    "virtio-balloon": {
        2: "deflate-on-oom",
        3: "free-page-hint",
        4: "page-poison",
        5: "free-page-reporting",
    },
    "virtio-gpu": GPU,
    "virtio-vga": GPU,
    "vhost-user-blk": BLK,
    "vhost-user-snd": {0: "controls"},
    "vhost-user-vsock": {1: "seqpacket"},
    "vhost-user-scsi": {**SCSI, 3: "t10_pi"},
    "vhost-user-gpu": GPU,
    "vhost-user-vga": GPU,
    "vhost-user-net": NET,
}
# The bits of a device type: the others mean the same for every one (6).
TYPES_OWN = mask({*range(64)} - {*range(24, 42)})
IN_QEMU = tuple(
    name for name, row in device_types().items() if row.served_by == "in-qemu" and not row.needs
)
WITH_OWN = tuple(name for name in vhost_user_types() if name in OWN)
SOUND, GPUS = "vhost-user-snd", ("vhost-user-gpu", "vhost-user-vga")
# What a netdev must be able to do, too, if there is to be more than its property.
USER_NETDEV = {name for bit, name in NET.items() if bit < 16 or bit > 23} - {
    "ctrl_guest_offloads",
    "gso",
    "mrg_rxbuf",
    "rss",
    "guest_rsc_ext",
}
VHOST_NETDEV = {"gso", "guest_uso4", "guest_uso6", "host_uso", "rss"}
# Free page hints need a thread of their own.
BALLOON: Device = {"iothread": "thread0"}
THREAD = ("-object", "iothread,id=thread0")


def properties(kind: str) -> Mapping[int, str]:
    """The property of each bit that has one."""
    return dict([*RING_PROPERTIES.items(), *OWN.get(kind, {}).items()])


def offered(features: int, bits: Mapping[int, str]) -> set[str]:
    """The properties whose bits are offered."""
    return {name for bit, name in bits.items() if features >> bit & 1}


def in_qemu(
    lab: Lab, kind: str, given: Mapping[str, bool], *, machine_type: str | None = None
) -> set[str]:
    """The properties whose bits a device in QEMU itself offers, to a driver of any interface."""
    variants = ["pci modern", *(["pci legacy"] if device_types()[kind].legacy else [])]
    shown = (_shown(lab, kind, variant, given, machine_type) for variant in variants)
    return {name for features in shown for name in offered(features, properties(kind))}


def _shown(
    lab: Lab, kind: str, variant: str, given: Mapping[str, bool], machine_type: str | None
) -> int:
    """The features of a device on a machine of its own, which ends at once."""
    row, way = device_types()[kind], TRANSPORTS[variant]
    device: Device = {
        "driver": row.driver("pci"),
        **(row.place if way.machine in row.machines else {}),
        **row.properties,
        **(way.properties if row.legacy else {}),
        **(BALLOON if kind == "virtio-balloon" else {}),
        **given,
    }
    spec = Spec(
        machine=machine_type or way.machine,
        accel=way.accel,
        memory=RAM_MIB,
        devices=[device],
        extra=[*way.extra, *THREAD, *(word.format(folder=lab.folder) for word in row.args)],
        qtest=True,
    )
    with ExitStack() as owned:
        machine = Lab(lab.build, lab.folder, owned).start(way.emulator, spec)
        return way.connect(machine).device_features


def vhost_user(
    lab: Lab, kind: str, given: Mapping[str, bool], *, machine_type: str | None = None
) -> set[str]:
    """The properties whose bits a device offers; its back-end has every bit of its type."""
    config = bytes(16) if kind == SOUND else None
    backend = lab.backend(kind, config=config)
    backend.features |= TYPES_OWN
    machine = lab.cold_plugged(
        kind, backend, "pci modern", properties=given, machine_type=machine_type
    )
    return offered(TRANSPORTS["pci modern"].connect(machine).device_features, OWN[kind])


@pytest.mark.parametrize("kind", IN_QEMU)
def test_device_in_qemu_offers_nothing_that_is_off(lab: Lab, kind: str) -> None:
    assert in_qemu(lab, kind, dict.fromkeys(properties(kind).values(), False)) == set()


@pytest.mark.parametrize("kind", IN_QEMU)
def test_device_in_qemu_offers_what_is_on(lab: Lab, kind: str) -> None:
    """The test above could fail."""
    names = {*properties(kind).values()}
    unable = USER_NETDEV if kind == "virtio-net" else set()
    if not device_types()[kind].legacy:
        unable |= {RING_PROPERTIES[bit] for bit in LEGACY_ONLY}
    shown = in_qemu(lab, kind, dict.fromkeys(names, True))
    assert names - shown <= unable


@pytest.mark.parametrize("kind", WITH_OWN)
def test_vhost_user_device_offers_nothing_that_is_off(lab: Lab, kind: str) -> None:
    """Of its type's own bits; test_property_takes_a_bit_away is about the others."""
    assert vhost_user(lab, kind, dict.fromkeys(OWN[kind].values(), False)) == set()


@pytest.mark.parametrize("kind", WITH_OWN)
def test_vhost_user_device_offers_what_is_on(lab: Lab, kind: str) -> None:
    """The test above could fail."""
    names = {*OWN[kind].values()}
    shown = vhost_user(lab, kind, dict.fromkeys(names, True))
    # Since 10.2 hashes, too, are up to the network back-end.
    netdev = VHOST_NETDEV if lab.build.project.is_first else VHOST_NETDEV | {"hash"}
    assert names - shown == (netdev if kind == "vhost-user-net" else set())


def test_sound_card_has_no_controls_unless_asked_for(lab: Lab) -> None:
    """5.14.4: without them the configuration ends before their number."""
    assert vhost_user(lab, SOUND, {}) == set()


@pytest.mark.parametrize("kind", GPUS)
def test_gpu_has_no_edid_if_that_is_off(lab: Lab, kind: str) -> None:
    assert vhost_user(lab, kind, {"edid": False}) == set()


@pytest.mark.parametrize("name", ["indirect_desc", "event_idx"])
def test_virtio_iommu_obeys_the_properties_of_rings(lab: Lab, name: str) -> None:
    assert name not in in_qemu(lab, "virtio-iommu", {name: False})


@pytest.mark.parametrize(
    ("kind", "given"),
    [(SOUND, {}), *((kind, {"edid": False}) for kind in GPUS)],
)
def test_old_machine_type_offers_what_the_back_end_has(
    lab: Lab, kind: str, given: Mapping[str, bool]
) -> None:
    """Its guests find their features."""
    assert vhost_user(lab, kind, given, machine_type=OLD_MACHINE) == {*OWN[kind].values()}


def test_virtio_iommu_of_an_old_machine_type_has_all_features_of_rings(lab: Lab) -> None:
    given = {"indirect_desc": False, "event_idx": False}
    assert in_qemu(lab, "virtio-iommu", given, machine_type=OLD_MACHINE) >= {*given}
