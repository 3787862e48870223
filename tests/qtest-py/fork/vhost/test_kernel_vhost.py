"""Feature bits of devices whose rings the kernel serves, which is a shared library here."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit as F
from qap.oracle.features import mask, names
from qap.verify.kit.fake_vhost import (
    BLOCK,
    DEVICE,
    NETWORK,
    TAP_FD,
    VHOST_FD,
    fake_vhost,
)
from qap.verify.kit.lab import Lab
from qap.virtio.transports import TRANSPORTS, Beside

OLD_MACHINE = "pc-q35-9.2"
# Each type with the properties that name its device in the kernel, and the two netdevs.
TYPES: Mapping[str, Mapping[str, Any]] = {
    "vhost-scsi": {"vhostfd": str(VHOST_FD), "wwpn": "naa.5001405324af0985"},
    "vhost-vsock": {"vhostfd": str(VHOST_FD), "guest-cid": 3},
    "vhost-vdpa-device": {"vhostdev": DEVICE},
}
NETDEVS = {
    "tap": f"tap,id=net0,fd={TAP_FD},vhost=on,vhostfd={VHOST_FD}",
    "vdpa": f"vhost-vdpa,id=net0,vhostdev={DEVICE}",
}
# What only a transport can do; QEMU's do none of it for a vhost device.
TRANSPORTS_OWN = (F.SR_IOV, F.NOTIF_CONFIG_DATA, F.RING_RESET, F.ADMIN_VQ)
# A vDPA device without the second one is refused.
ALWAYS = (F.VERSION_1, F.ACCESS_PLATFORM)
SWITCHED = (F.INDIRECT_DESC, F.EVENT_IDX)


def offered(
    lab: Lab,
    kind: str,
    has: Iterable[int],
    *,
    machine_type: str | None = None,
    properties: Mapping[str, object] = MappingProxyType({}),
) -> int:
    """What a device in front of the kernel's offers if that has ALWAYS and these bits."""
    way = TRANSPORTS["pci modern"]
    if netdev := NETDEVS.get(kind):
        beside = Beside(extra=("-netdev", netdev))
        spec = way.spec("virtio-net", (), beside, netdev="net0", **properties)
    else:
        spec = way.spec(kind, (), **TYPES[kind], **properties)
    if machine_type:
        spec = replace(spec, machine=machine_type)
    machine = Machine(
        lab.build.path(way.emulator),
        spec,
        log=lab.log(),
        wrapper=fake_vhost(
            lab.folder, mask([*ALWAYS, *has]), NETWORK if kind in NETDEVS else BLOCK
        ),
    )
    return way.connect(lab.owned.enter_context(machine)).device_features


@pytest.mark.parametrize("kind", [*TYPES, "vdpa"])
def test_ring_reset_is_not_offered_with_the_kernels_vhost(lab: Lab, kind: str) -> None:
    """2.6.1: nobody would tell the kernel that a queue was reset."""
    assert not offered(lab, kind, [F.RING_RESET]) & mask([F.RING_RESET])


def test_ring_reset_is_offered_with_vhost_net(lab: Lab) -> None:
    """virtio-net tells the kernel."""
    assert offered(lab, "tap", [F.RING_RESET]) & mask([F.RING_RESET])


@pytest.mark.parametrize("kind", [*TYPES, *NETDEVS])
def test_old_machine_type_offers_ring_reset(lab: Lab, kind: str) -> None:
    assert offered(lab, kind, [F.RING_RESET], machine_type=OLD_MACHINE) & mask([F.RING_RESET])


def test_vdpa_device_offers_nothing_that_no_transport_can_do(lab: Lab) -> None:
    shown = offered(lab, "vhost-vdpa-device", [*TRANSPORTS_OWN, *SWITCHED])
    assert names(bit for bit in TRANSPORTS_OWN if shown & mask([bit])) == []
    assert shown & mask(SWITCHED) == mask(SWITCHED)


def test_vdpa_device_obeys_its_properties(lab: Lab) -> None:
    shown = offered(
        lab, "vhost-vdpa-device", SWITCHED, properties={"indirect_desc": False, "event_idx": False}
    )
    assert not shown & mask(SWITCHED)


@pytest.mark.parametrize(("name", "bit"), [("packed", F.RING_PACKED), ("in_order", F.IN_ORDER)])
def test_vdpa_device_obeys_properties_that_others_have_off(lab: Lab, name: str, bit: F) -> None:
    assert not offered(lab, "vhost-vdpa-device", [bit], properties={name: False}) & mask([bit])


@pytest.mark.parametrize("kind", TYPES)
def test_device_of_the_kernel_obeys_the_properties_of_rings(lab: Lab, kind: str) -> None:
    off = {"indirect_desc": False, "event_idx": False, "packed": False, "in_order": False}
    bits = (*SWITCHED, F.RING_PACKED, F.IN_ORDER)
    assert not offered(lab, kind, bits, properties=off) & mask(bits)


@pytest.mark.parametrize(
    ("kind", "name", "bit"), [("vhost-scsi", "t10_pi", 3), ("vhost-vsock", "seqpacket", 1)]
)
@pytest.mark.parametrize("on", [True, False])
def test_device_of_the_kernel_obeys_its_own_property(
    lab: Lab, kind: str, name: str, bit: int, on: bool
) -> None:
    value: object = on if kind == "vhost-scsi" else "on" if on else "off"
    assert bool(offered(lab, kind, [bit], properties={name: value}) & mask([bit])) == on


def test_vdpa_device_keeps_rings_that_nobody_asked_for(lab: Lab) -> None:
    """packed and in_order are off by default: its users would lose what they have."""
    rings = mask([F.RING_PACKED, F.IN_ORDER])
    assert offered(lab, "vhost-vdpa-device", [F.RING_PACKED, F.IN_ORDER]) & rings == rings
