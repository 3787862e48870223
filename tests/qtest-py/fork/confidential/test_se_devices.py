"""Which memory of a Secure Execution guest devices can access."""

import struct
from pathlib import Path

import pytest

from qap.hw.channel_program import ProgramFailed, SubchannelStatus
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.guest_memory import PAGE
from qap.machine.qmp import QmpRefused
from qap.oracle.features import FeatureBit
from qap.verify.kit.se_guest import PROGRAMS, SIMULATION, UNANSWERED, SeGuest, Start
from qap.virtio.blk import BlkRequest
from qap.virtio.ccw import INDICATORS, VirtioCcw
from qap.virtio.driver import Driver
from qap.virtio.queue import Buffer


def test_disk_works_through_shared_pages(start: Start, disk: Path) -> None:
    guest = start()
    driver = guest.driver()
    queue, chain = guest.queue(driver), guest.chain()
    driver.serve(queue, chain)
    assert guest.memory.read(chain[1].address, 512) == disk.read_bytes()[512:1024]
    assert guest.info["violations"] == []


@pytest.mark.parametrize("position", range(3), ids=["header", "data", "status"])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_private_buffer_breaks_the_disk(start: Start, position: int, indirect: bool) -> None:
    guest = start()
    driver = guest.driver(*[FeatureBit.INDIRECT_DESC] * indirect)
    queue, chain = guest.queue(driver), guest.chain()
    guest.ultravisor.unshare(chain[position].address)
    if indirect:
        guest.ultravisor.share(guest.memory.take(1) + PAGE)
    before = guest.memory.read(chain[1].address, 512)
    guest.offer(driver, queue, chain)
    seen = guest.violation()
    assert seen == {
        "device": "disk",
        "qom-path": "/machine/peripheral/disk",
        "address": chain[position].address,
        "direction": "write" if position else "read",
        "action": "error",
    }
    assert guest.memory.read(chain[1].address, 512) == before
    assert guest.memory.read(chain[2].address, 1) == UNANSWERED
    assert broken(guest)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("area", ["desc", "driver", "device"])
def test_private_ring_breaks_the_disk(start: Start, packed: bool, area: str) -> None:
    guest = start()
    driver = guest.driver(*[FeatureBit.RING_PACKED] * packed)
    queue, chain = guest.queue(driver), guest.chain()
    private = getattr(queue.addresses, area)
    guest.ultravisor.unshare(private)
    guest.offer(driver, queue, chain)
    seen = guest.violation()
    assert (seen["device"], seen["address"] // PAGE) == ("disk", private // PAGE)
    assert broken(guest)


def test_private_indirect_table_breaks_the_disk(start: Start) -> None:
    guest = start()
    driver = guest.driver(FeatureBit.INDIRECT_DESC)
    queue, chain = guest.queue(driver), guest.chain()
    table = guest.memory.take(1) + PAGE
    guest.offer(driver, queue, chain)
    seen = guest.violation()
    assert (seen["device"], seen["address"], seen["direction"]) == ("disk", table, "read")
    assert broken(guest)


def test_disk_whose_ring_was_made_private_again_breaks(start: Start) -> None:
    guest = start()
    driver = guest.driver()
    queue = guest.queue(driver)
    driver.serve(queue, guest.chain())
    guest.ultravisor.unshare(queue.addresses.desc)
    guest.offer(driver, queue, guest.chain())
    assert guest.violation()["address"] == queue.addresses.desc


@pytest.mark.parametrize("area", ["desc", "driver", "device"])
def test_monitor_leaves_a_private_ring_alone(start: Start, area: str) -> None:
    """It says so; nothing is broken, and nothing is counted."""
    guest = start()
    driver = guest.driver()
    queue = guest.queue(driver)
    driver.serve(queue, guest.chain())
    private = getattr(queue.addresses, area)
    guest.ultravisor.unshare(private)
    with pytest.raises(QmpRefused, match="does not share the ring"):
        guest.machine.qmp.execute(
            "x-query-virtio-queue-element",
            path="/machine/peripheral/disk/virtio-backend",
            queue=0,
        )
    assert guest.info["violations"] == []
    assert not broken(guest)
    guest.ultravisor.share(private)
    driver.serve(queue, guest.chain())


def test_broken_disk_works_after_the_driver_reset_it(start: Start, disk: Path) -> None:
    guest = start()
    driver = guest.driver()
    queue, chain = guest.queue(driver), guest.chain()
    guest.ultravisor.unshare(chain[1].address)
    guest.offer(driver, queue, chain)
    guest.violation()
    driver.negotiate()
    queue, chain = guest.queue(driver), guest.chain()
    driver.serve(queue, chain)
    assert guest.memory.read(chain[1].address, 512) == disk.read_bytes()[512:1024]


def test_report_lets_the_disk_go_on(start: Start, disk: Path) -> None:
    guest = start(simulation=f"{SIMULATION},on-violation=report")
    driver = guest.driver()
    queue, chain = guest.queue(driver), guest.chain()
    for buffer in chain:
        guest.ultravisor.unshare(buffer.address)
    driver.serve(queue, chain)
    assert guest.memory.read(chain[1].address, 512) == disk.read_bytes()[512:1024]
    (counted,) = guest.info["violations"]
    assert (counted["device"], counted["reads"], counted["writes"]) == ("disk", 1, 2)
    assert guest.violation()["action"] == "report"


def test_private_channel_program_is_not_executed(start: Start) -> None:
    guest = start()
    subchannel = ChannelSubsystem(guest.cpu).find(5)
    subchannel.enable()
    guest.ultravisor.query()
    with pytest.raises(ProgramFailed) as failed:
        subchannel.sense_id()
    assert SubchannelStatus.PROGRAM_CHECK in failed.value.irb.subchannel
    assert guest.violation()["address"] // PAGE == PROGRAMS // PAGE


def test_private_indicators_break_the_disk(start: Start) -> None:
    guest = start()
    driver = guest.driver()
    queue, chain = guest.queue(driver), guest.chain()
    guest.ultravisor.unshare(INDICATORS)
    guest.offer(driver, queue, chain)
    seen = guest.violation()
    assert seen["address"] // PAGE == INDICATORS // PAGE
    assert (seen["device"], seen["direction"]) == ("disk", "write")
    assert broken(guest)


def test_device_works_with_all_memory_before_the_first_call(start: Start) -> None:
    guest = start()
    subchannel = ChannelSubsystem(guest.cpu).find(5)
    driver = Driver(VirtioCcw(subchannel, 2), guest.memory)
    driver.negotiate()
    queue = driver.queue(0, 16)
    driver.start()
    header = guest.memory.put(struct.pack("<IIQ", BlkRequest.IN, 0, 1))
    chain = [
        Buffer(header, 16),
        Buffer(guest.memory.take(512), 512, writable=True),
        Buffer(guest.memory.take(1), 1, writable=True),
    ]
    driver.serve(queue, chain)
    assert guest.info["violations"] == []


def test_events_are_counted_where_they_are_not_sent(start: Start) -> None:
    guest = start(simulation=f"{SIMULATION},on-violation=report")
    driver = guest.driver()
    queue, chain = guest.queue(driver), guest.chain()
    guest.ultravisor.unshare(chain[0].address)
    for _ in range(20):
        driver.serve(queue, chain)
    (counted,) = guest.info["violations"]
    assert counted["reads"] == 20


def broken(guest: SeGuest) -> bool:
    """Whether the disk needs a reset (virtio 1.3, 2.1.2), from QMP."""
    path = "/machine/peripheral/disk/virtio-backend"
    status = guest.machine.qmp.execute("x-query-virtio-status", path=path)
    return bool(status["broken"])
