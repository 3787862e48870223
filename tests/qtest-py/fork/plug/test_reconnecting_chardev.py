"""A device on a chardev that connects again: it needs its back-end when it is plugged."""

import pytest

from qap.host.wait import poll_until
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.chardev import COMMANDS
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.oracle.features import FeatureBit, mask
from qap.oracle.fence import REFUSAL_PHRASE
from qap.verify.kit.checks import CHARDEV_S, wait_chardev
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.virtio.pci_modern import VENDOR_ID, PciModern

# For what never ends on stock QEMU.
ANSWER_S = 5.0
CHARDEV = "vhost"
RECONNECT_MS = 100
EVERY_KIND = tuple(vhost_user_types())
HOT_KINDS = tuple(kind for kind, row in vhost_user_types().items() if not row.hotplug)
# On stock QEMU these wait for a back-end when they are hot-plugged; a netdev may, in a coroutine.
STORAGE = ("vhost-user-blk", "vhost-user-scsi")
WAITING = (*STORAGE, "vhost-user-net")
NOBODY_COMES = (f"reconnect-ms={RECONNECT_MS}", "server=on,wait=off")

# These are plugged on stock QEMU, too, though not all of them know their back-end by then.
AT_EASE = (*WAITING, "vhost-user-crypto")


def unconnected(lab: Lab, kind: str, *, access_platform: bool = False) -> tuple[Backend, list[str]]:
    """A back-end, and the words for a chardev in front of it that QEMU connects at its leisure."""
    behind = lab.backend(kind, access_platform=access_platform)
    lab.backends.clear()
    return behind, [
        "-chardev",
        f"socket,id={CHARDEV},path={behind.path},reconnect-ms={RECONNECT_MS}",
    ]


def device_of(kind: str, *, requested: bool = False) -> tuple[Device, list[str]]:
    """The device in front of that chardev, and the words that it needs."""
    row = vhost_user_types()[kind]
    device, words = row.pci(CHARDEV)
    modern = {"disable-legacy": "on"} if row.legacy else {}
    return {**device, **modern, "id": "dut", "iommu_platform": requested}, words


def assert_waits(lab: Lab, kind: str) -> None:
    behind, chardev = unconnected(lab, kind)
    device, words = device_of(kind)
    machine = lab.machine({**device, "bus": "pcie.0"}, extra=[*chardev, *words])
    assert machine.alive
    assert behind.received
    assert behind.connections == 1


@pytest.mark.parametrize("kind", [kind for kind in EVERY_KIND if kind not in AT_EASE])
def test_cold_plugged_device_waits_for_its_connection(lab: Lab, kind: str) -> None:
    assert_waits(lab, kind)


@pytest.mark.parametrize("kind", AT_EASE)
def test_cold_plugged_device_goes_on_waiting(lab: Lab, kind: str) -> None:
    """These did so before."""
    assert_waits(lab, kind)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_cold_plugged_device_is_fenced(lab: Lab, kind: str) -> None:
    """Whether its back-end can translate is known by then."""
    _, chardev = unconnected(lab, kind)
    device, words = device_of(kind, requested=True)
    said = lab.cold_refusal(
        {**device, "bus": "pcie.0"}, viommu="intel-iommu", extra=[*chardev, *words]
    )
    assert REFUSAL_PHRASE in said


def plug(machine: Machine, kind: str) -> None:
    """Hot-plug the device, with what stands between chardev and device."""
    row = vhost_user_types()[kind]
    device, _ = device_of(kind)
    if row.vhost_user and (between := row.vhost_user.between):
        said = COMMANDS[between.option]
        named = {said.type: between.type, "id": device[between.property], "chardev": CHARDEV}
        machine.qmp.execute(said.add, **named)
    machine.plug({**device, "bus": "port0"})


def assert_refused_at_once(lab: Lab, kind: str, chardev: str) -> None:
    """Plug it while nobody is there, and again when somebody has come."""
    path = lab.folder / "later.sock"
    machine = lab.machine(
        extra=["-chardev", f"socket,id={CHARDEV},path={path},{chardev}"], qtest=True
    )
    machine.qmp.timeout = ANSWER_S
    with pytest.raises(QmpRefused, match="chardev 'vhost' is not connected to a vhost-user"):
        plug(machine, kind)
    machine.qmp.execute("query-status")
    if "server" in chardev:
        return
    behind = lab.backend(kind)
    behind.path.rename(path)
    wait_chardev(machine, CHARDEV, connected=True)
    plug(machine, kind)
    assert behind.received


def assert_connects_to_the_next(lab: Lab, kind: str) -> None:
    """Plug it after the chardev, which does not connect again by itself, has lost its peer."""
    behind = lab.backend(kind)
    lab.backends.clear()
    chardev = ["-chardev", f"socket,id={CHARDEV},path={behind.path}"]
    machine = lab.machine(extra=chardev, qtest=True)
    wait_chardev(machine, CHARDEV, connected=True)
    poll_until(lambda: behind.connections or None, CHARDEV_S, lambda: "the back-end to take it")
    behind.hang_up()
    wait_chardev(machine, CHARDEV, connected=False)
    plug(machine, kind)
    assert behind.received
    assert machine.alive


@pytest.mark.parametrize("kind", HOT_KINDS)
def test_hot_plugged_device_takes_a_connection(lab: Lab, kind: str) -> None:
    behind, chardev = unconnected(lab, kind)
    machine = lab.machine(extra=chardev, qtest=True)
    wait_chardev(machine, CHARDEV, connected=True)
    plug(machine, kind)
    assert behind.received
    assert machine.alive


@pytest.mark.parametrize("kind", [kind for kind in HOT_KINDS if kind not in WAITING])
def test_hot_plugged_device_without_a_connection_is_refused(lab: Lab, kind: str) -> None:
    """The VM must not wait for it."""
    assert_refused_at_once(lab, kind, f"reconnect-ms={RECONNECT_MS}")


@pytest.mark.parametrize("kind", STORAGE)
@pytest.mark.parametrize("chardev", NOBODY_COMES)
def test_hot_plugged_device_is_refused_at_once(lab: Lab, kind: str, chardev: str) -> None:
    """The same for those that waited, and for a chardev that listens."""
    assert_refused_at_once(lab, kind, chardev)


@pytest.mark.parametrize("kind", [kind for kind in HOT_KINDS if kind not in WAITING])
def test_hot_plugged_device_does_not_wait_for_a_client(lab: Lab, kind: str) -> None:
    assert_refused_at_once(lab, kind, "server=on,wait=off")


@pytest.mark.parametrize("kind", [kind for kind in HOT_KINDS if kind not in WAITING])
def test_hot_plugged_device_connects_to_the_next_back_end(lab: Lab, kind: str) -> None:
    assert_connects_to_the_next(lab, kind)


@pytest.mark.parametrize("kind", WAITING)
def test_waiting_device_connects_to_the_next_back_end(lab: Lab, kind: str) -> None:
    """These did so before."""
    assert_connects_to_the_next(lab, kind)


def test_crypto_device_knows_its_back_end(lab: Lab) -> None:
    """It is plugged when QEMU starts, and offers no ring feature that its back-end lacks."""
    behind, chardev = unconnected(lab, "vhost-user-crypto")
    behind.features &= ~mask([FeatureBit.EVENT_IDX])
    device, words = device_of("vhost-user-crypto")
    machine = lab.machine({**device, "bus": "port0"}, extra=[*chardev, *words], qtest=True)
    offered = PciModern(PciBus(machine.qtest).find(VENDOR_ID)).device_features
    assert not offered & mask([FeatureBit.EVENT_IDX])


def test_crypto_device_whose_back_end_is_gone_is_refused(lab: Lab) -> None:
    """It was there when its -object was made, but what the next one has is not known."""
    behind, chardev = unconnected(lab, "vhost-user-crypto")
    _, words = device_of("vhost-user-crypto")
    machine = lab.machine(extra=[*chardev, *words], qtest=True)
    wait_chardev(machine, CHARDEV, connected=True)
    behind.close()
    wait_chardev(machine, CHARDEV, connected=False)
    device, _ = device_of("vhost-user-crypto")
    assert "is gone" in machine.refusal({**device, "bus": "port0"})
    assert machine.alive
