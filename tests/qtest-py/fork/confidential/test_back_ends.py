"""vhost-user back-ends of a Secure Execution guest, whose accesses QEMU can't prevent."""

from collections.abc import Callable

import pytest

from qap.hw.subchannel import ChannelSubsystem
from qap.machine.catalog import plain_types
from qap.machine.qmp import QmpRefused
from qap.oracle.features import FeatureBit, mask
from qap.scenario.confidential import Shared, private_touched
from qap.verify.kit.lab import Lab
from qap.verify.kit.se_guest import PROGRAMS, SeGuest, Start
from qap.vhost_user.backend import Backend
from qap.virtio.ccw import INDICATORS, VirtioCcw
from qap.virtio.driver import Driver
from qap.virtio.queue import Queue

Blk = tuple[SeGuest, Backend, Queue, Driver]


@pytest.fixture
def plugged(start: Start, lab: Lab) -> Callable[[str], tuple[SeGuest, Backend]]:
    """A guest with a vhost-user device of this type and a back-end in Python."""

    def plug(kind: str) -> tuple[SeGuest, Backend]:
        if kind == "vhost-user-vsock":
            offered = mask([FeatureBit.VHOST_USER_PROTOCOL_FEATURES, FeatureBit.VERSION_1])
            behind = Backend(lab.folder / "vsock.sock", features=offered, config=bytes(8))
            lab.owned.enter_context(behind)
        else:
            behind = lab.backend(kind)
        guest = start()
        guest.machine.add_socket("behind", behind.path)
        device = {"driver": f"{kind}-ccw", "chardev": "behind", "devno": "fe.0.0006"}
        known = plain_types()
        properties = known[kind].properties if kind in known else {}
        guest.machine.plug({**device, **properties, "iommu_platform": True})
        return guest, behind

    return plug


@pytest.fixture
def blk(plugged: Callable[[str], tuple[SeGuest, Backend]]) -> Callable[[], Blk]:
    """A guest that drives a vhost-user-blk, whose back-end answers a read."""

    def drive() -> Blk:
        guest, behind = plugged("vhost-user-blk")
        behind.service = lambda queue, request, room: request[8:] * 64 + b"\0"
        return guest, behind, *working(guest)

    return drive


@pytest.mark.parametrize("kind", ["vhost-user-blk", "vhost-user-vsock", "vhost-user-fs"])
def test_vhost_user_device_plugs(
    plugged: Callable[[str], tuple[SeGuest, Backend]], kind: str
) -> None:
    guest, behind = plugged(kind)
    guest.ultravisor.share(PROGRAMS)
    guest.ultravisor.share(INDICATORS)
    driver = Driver(VirtioCcw(ChannelSubsystem(guest.cpu).find(6), 2), guest.memory)
    driver.negotiate()
    assert driver.has(FeatureBit.ACCESS_PLATFORM)
    driver.queue(0, 16)
    driver.start()
    assert not (behind.acked_features or 0) >> FeatureBit.ACCESS_PLATFORM & 1
    assert guest.info["violations"] == []


def test_vhost_user_device_on_pci_stays_refused(start: Start, lab: Lab) -> None:
    """Each PCI function is translated on s390x, with the simulation as without."""
    behind = lab.backend("vhost-user-fs")
    guest = start()
    guest.machine.add_socket("behind", behind.path)
    device = {"driver": "vhost-user-fs-pci", "chardev": "behind", "tag": "share"}
    with pytest.raises(QmpRefused, match="is behind an IOMMU"):
        guest.machine.plug({**device, "iommu_platform": True})


def test_back_end_touches_shared_pages_alone(blk: Callable[[], Blk]) -> None:
    guest, behind, queue, driver = blk()
    driver.serve(queue, guest.chain())
    assert behind.touched
    assert private_touched(behind, Shared.of(guest.machine)) == []


def test_record_of_a_back_end_shows_a_page_that_is_private(blk: Callable[[], Blk]) -> None:
    guest, behind, queue, driver = blk()
    chain = guest.chain()
    guest.ultravisor.unshare(chain[1].address)
    driver.serve(queue, chain)
    private = private_touched(behind, Shared.of(guest.machine))
    assert {(access.address, access.what, access.write) for access in private} == {
        (chain[1].address, "buffer", True)
    }


def test_ring_of_a_back_end_that_died_is_not_read_once_it_is_private(
    blk: Callable[[], Blk],
) -> None:
    """The driver's reset stops the device, and QEMU can't ask the back-end how far it got."""
    guest, behind, queue, driver = blk()
    driver.serve(queue, guest.chain())
    guest.ultravisor.unshare(queue.addresses.device)
    behind.close()
    driver.transport.reset()
    assert guest.info["violations"] == []


def working(guest: SeGuest) -> tuple[Queue, Driver]:
    """The first queue of the vhost-user device, shared, and its driver at DRIVER_OK."""
    guest.ultravisor.share(PROGRAMS)
    guest.ultravisor.share(INDICATORS)
    driver = Driver(VirtioCcw(ChannelSubsystem(guest.cpu).find(6), 2), guest.memory)
    driver.negotiate()
    return guest.queue(driver), driver
