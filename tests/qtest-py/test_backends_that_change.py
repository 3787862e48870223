"""Back-ends that come back as others, and devices that must not be given to them."""

import re
from typing import Any

import pytest

from qap import qmp
from qap.features import FeatureBit, mask
from qap.machine import Machine
from qap.pci_bus import PciBus
from qap.qmp import QmpRefused
from qap.vhost_user.backend import Backend
from qap.vhost_user.misbehave import FlipFeatures
from qap.vhost_user.model import all_types, backend
from qap.vhost_user.protocol import FrontendRequest, ProtocolFeature
from qap.vhost_user.service import pattern
from qap.virtio.driver import Driver
from qap.virtio.memory import GuestMemory
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.poll import poll_until
from qap.virtio.queue import Buffer, Queue

R = FrontendRequest
WAIT_S = 20
SIZE = 16
BASE_KINDS = [f"vhost-user-{name}" for name in ("rng", "i2c", "gpio", "input", "snd")]
# The ones that open their connection anew when they lose it.
RECONNECTING = ["vhost-user-blk", "vhost-user-scsi", "vhost-user-rng"]
CONNECTIONS_IN_EIGHT_TRIES = 8
GIVEN_UP_S = 8.0


def reconnecting(lab: Any, kind: str, behind: Backend, viommu: str = "none") -> Machine:
    """A machine with that device, whose chardev connects again a moment after it was cut off."""
    lab.backends.clear()
    machine: Machine = lab.machine(viommu=viommu, qtest=True)
    address = {"type": "unix", "data": {"path": str(behind.path)}}
    socket = {"addr": address, "server": False, "reconnect-ms": 10}
    name = behind.path.stem
    machine.qmp.execute("chardev-add", id=name, backend={"type": "socket", "data": socket})
    wait_connections(machine, behind, 1)
    device, _ = all_types()[kind].pci(name)
    machine.plug({**device, "bus": "port0", "iommu_platform": viommu != "none"})
    return machine


def driven(machine: Machine) -> tuple[Driver, Queue]:
    """A driver of the machine's only virtio function up to DRIVER_OK, and its first queue."""
    driver = Driver(PciModern(PciBus(machine.qtest).find(VENDOR_ID)), GuestMemory(machine.qtest))
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    return driver, queue


def assert_served(driver: Driver, queue: Queue) -> None:
    address = driver.memory.take(SIZE)
    driver.serve(queue, [Buffer(address, SIZE, writable=True)])
    assert driver.memory.read(address, SIZE) == pattern(SIZE)


def wait_connections(machine: Machine, behind: Backend, times: int) -> None:
    """Wait until QEMU has connected so often; QEMU's main loop goes round meanwhile."""
    poll_until(
        lambda: (machine.qtest.endianness() and behind.connections >= times) or None,
        WAIT_S,
        lambda: f"connection {times} to the back-end at {behind.path}",
    )


@pytest.mark.parametrize("lost", [FeatureBit.ACCESS_PLATFORM, FeatureBit.VERSION_1])
@pytest.mark.parametrize("kind", RECONNECTING)
def test_lesser_back_end_is_not_started(lab: Any, kind: str, lost: FeatureBit) -> None:
    """It is told of no ring while it lacks the bit, and serves on when it has it again."""
    behind = lab.backend(kind, access_platform=True)
    machine = reconnecting(lab, kind, behind, viommu="intel-iommu")
    driver, queue = driven(machine)
    assert_served(driver, queue)
    offered = behind.features
    behind.features = offered & ~mask([lost])
    behind.forget()
    before = behind.connections
    behind.hang_up()
    wait_connections(machine, behind, before + 3)
    assert behind.requests(R.SET_VRING_ADDR) == []
    behind.features = offered
    poll_until(
        lambda: (machine.qtest.endianness() and behind.requests(R.SET_VRING_KICK)) or None,
        WAIT_S,
        lambda: "the device to be started with the better back-end",
    )
    assert_served(driver, queue)


@pytest.mark.parametrize("kind", BASE_KINDS)
def test_base_device_survives_its_back_end(lab: Any, kind: str) -> None:
    """While no driver runs it, and again with one; the next connection serves on."""
    behind = lab.backend(kind)
    machine = reconnecting(lab, kind, behind)
    for _ in range(2):
        before = behind.connections
        behind.hang_up()
        wait_connections(machine, behind, before + 1)
    driver, queue = driven(machine)
    behind.forget()
    behind.hang_up()
    poll_until(
        lambda: (machine.qtest.endianness() and behind.requests(R.SET_VRING_KICK)) or None,
        WAIT_S,
        lambda: "the device to be started again",
    )
    if kind != "vhost-user-input":  # its first queue is for the device's events
        assert_served(driver, queue)


@pytest.mark.parametrize("kind", BASE_KINDS)
def test_base_device_without_features_is_refused(lab: Any, kind: str) -> None:
    """The back-end answers 0 when it is asked for the second time."""
    path = lab.folder / "forgetful.sock"
    forgetful = backend(
        path, kind, access_platform=False, misbehaviour=[FlipFeatures(0, from_request=2)]
    )
    behind = lab.owned.enter_context(forgetful)
    lab.backends.append(behind)
    said = lab.cold_refusal({**lab.device(kind, behind), "iommu_platform": False})
    assert "offers no features" in said


def test_netdev_gives_up_on_an_unfit_back_end(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It offers ACCESS_PLATFORM without the back-end channel that this needs."""
    monkeypatch.setattr(qmp, "COMMAND_S", GIVEN_UP_S)
    behind = lab.backend("vhost-user-rng", access_platform=True)
    behind.protocol_features &= ~mask([ProtocolFeature.BACKEND_REQ])
    machine = lab.machine()
    try:
        with pytest.raises(QmpRefused, match=r"."):
            machine.qmp.execute(
                "netdev_add", type="vhost-user", id="net0", chardev=behind.path.stem
            )
    except TimeoutError:
        pytest.fail(f"netdev_add did not end, after {behind.connections} connections")
    assert behind.connections == CONNECTIONS_IN_EIGHT_TRIES
    assert machine.alive
    assert re.search(r"could not be used in \d+ tries", machine.child.tail())
