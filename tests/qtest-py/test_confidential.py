"""Simulated Secure Execution: the ultravisor's answers, and what devices may touch."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.ccw import ProgramFailed, SubchannelStatus
from qap.channel import ChannelSubsystem
from qap.confidential import Shared, private_touched
from qap.features import FeatureBit, mask
from qap.machine import Device, Machine, QemuDied, Spec
from qap.qmp import QmpRefused
from qap.s390x_cpu import Cpu, CpuLost, Instruction, ProgramCheck
from qap.s390x_stub import kernel_option
from qap.ultravisor import (
    FACILITY,
    HEADER,
    QUERY_SIZE,
    SHARE_SIZE,
    Command,
    Rc,
    Ultravisor,
    convert,
    facilities,
    query,
)
from qap.vhost_user.backend import Backend
from qap.vhost_user.model import device_types
from qap.virtio.blk import Request
from qap.virtio.ccw import INDICATORS, Ccw
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.memory import MIB, PAGE, GuestMemory
from qap.virtio.poll import poll_until
from qap.virtio.queue import Buffer, Queue

MEMORY = 128
PAGES = MEMORY * MIB // PAGE
SECTORS = 2048
DISK: Device = {
    "driver": "virtio-blk-ccw",
    "id": "disk",
    "devno": "fe.0.0005",
    "drive": "disk0",
    "iommu_platform": True,
}
SIMULATION = "x-confidential-sim,id=cg0"
IN_USE = "s390-ccw-virtio,confidential-guest-support=cg0"
# What the guest of s390x_stub keeps its block and so its channel programs in.
PROGRAMS = Cpu.DATA // PAGE * PAGE
EVENT = "CONFIDENTIAL_SIM_VIOLATION"
UNANSWERED = b"\xff"


class PageEach(GuestMemory):
    """Memory that gives every piece a page of its own."""

    def take(self, size: int, alignment: int = 16) -> int:
        return super().take(size, PAGE)


@dataclass
class Guest:
    """A machine, the ultravisor of its only CPU, and memory to work in."""

    machine: Machine
    cpu: Cpu
    ultravisor: Ultravisor
    memory: GuestMemory

    @property
    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = self.machine.qmp.execute("x-query-confidential-sim")
        return found

    def violation(self) -> dict[str, Any]:
        """The next violation that QEMU tells of."""
        return self.machine.qmp.wait_event(EVENT, lambda data: True, 10)

    def driver(self, *more: int) -> Driver:
        """A driver of the disk, whose memory is all shared."""
        self.ultravisor.share(PROGRAMS)
        self.ultravisor.share(INDICATORS)
        subchannel = ChannelSubsystem(self.cpu).find(5)
        wanted = Behaviour(supports=MODERN | mask(more))
        driver = Driver(Ccw(subchannel, 2), self.memory, wanted)
        driver.negotiate()
        return driver

    def queue(self, driver: Driver) -> Queue:
        """The disk's queue, shared, of 16 entries, and DRIVER_OK."""
        queue = driver.queue(0, 16)
        for address in (queue.addresses.desc, queue.addresses.driver, queue.addresses.device):
            self.ultravisor.share(address)
        driver.start()
        return queue

    def chain(self) -> list[Buffer]:
        """Reads sector 1 of the disk: header, room and status, each shared."""
        header = self.memory.put(struct.pack("<IIQ", Request.IN, 0, 1))
        room, status = self.memory.take(512), self.memory.put(UNANSWERED)
        for address in (header, room, status):
            self.ultravisor.share(address)
        return [
            Buffer(header, 16),
            Buffer(room, 512, writable=True),
            Buffer(status, 1, writable=True),
        ]

    def offer(self, driver: Driver, queue: Queue, chain: list[Buffer]) -> None:
        """Hand a chain to the disk, without waiting for it."""
        queue.add(chain)
        driver.transport.notify(queue.index)


# Starts a machine in which Python drives the CPU; see `start`.
Start = Callable[..., Guest]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk with other bytes in each sector."""
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(512 * SECTORS))
    return path


@pytest.fixture
def start(lab: Any, disk: Path) -> Start:
    """Starts an s390-ccw-virtio with the simulation, the disk, and Python's CPU."""

    def started(
        *devices: Device,
        machine: str = IN_USE,
        simulation: str = SIMULATION,
        accel: str = "tcg",
        cpu: str = "max",
        extra: tuple[str, ...] = (),
    ) -> Guest:
        spec = Spec(
            machine=machine,
            accel=accel,
            cpu=cpu,
            memory=MEMORY,
            devices=[DISK, *devices],
            blockdevs=[f"driver=file,locking=off,node-name=disk0,filename={disk}"],
            extra=["-object", simulation, *kernel_option(lab.folder), *extra],
            qtest=True,
        )
        log = lab.folder / "qemu.log"
        running = lab.owned.enter_context(
            Machine(lab.build.path("qemu-system-s390x"), spec, log=log)
        )
        processor = Cpu(running.qtest, running.serial)
        return Guest(running, processor, Ultravisor(processor), PageEach(running.qtest))

    return started


@pytest.fixture
def refused(start: Start) -> Callable[..., str]:
    """What QEMU says when it refuses to start."""

    def said(*devices: Device, **options: Any) -> str:
        with pytest.raises(QemuDied) as died:
            start(*devices, **options)
        assert died.value.status == 1, died.value.detail
        return died.value.said

    return said


# The ultravisor's answers


def test_facility_is_there_with_the_object_alone(start: Start) -> None:
    with_it, without = start(), start(machine="s390-ccw-virtio")
    assert facilities(with_it.cpu) - facilities(without.cpu) == {FACILITY}


def test_without_the_object_the_instruction_is_none(start: Start) -> None:
    with pytest.raises(ProgramCheck, match="operation"):
        start(machine="s390-ccw-virtio").ultravisor.query()


def test_query_lists_query_and_share_and_unshare(start: Start) -> None:
    guest = start()
    assert guest.ultravisor.query() == {0, 8, 9}


def test_query_leaves_the_rest_of_a_larger_block(start: Start) -> None:
    guest = start()
    block = query(QUERY_SIZE + 16)[:-16] + b"\xa5" * 16
    assert guest.ultravisor.call(block).block[QUERY_SIZE:] == b"\xa5" * 16


@pytest.mark.parametrize(
    ("block", "rc"),
    [
        (query(QUERY_SIZE - 8), Rc.INVALID_LENGTH),
        (query(8), Rc.INVALID_LENGTH),
        (HEADER.pack(0, Command.QUERY, 0, 0), Rc.INVALID_LENGTH),
        (HEADER.pack(SHARE_SIZE - 8, Command.SET_SHARED_ACCESS, 0, 0), Rc.INVALID_LENGTH),
        (HEADER.pack(SHARE_SIZE + 8, Command.REMOVE_SHARED_ACCESS, 0, 0), Rc.INVALID_LENGTH),
        (HEADER.pack(8, 0, 0, 0), Rc.INVALID_COMMAND),
        (HEADER.pack(8, 0x0300, 0, 0), Rc.INVALID_COMMAND),
        (HEADER.pack(SHARE_SIZE, 0xFFFF, 0, 0), Rc.INVALID_COMMAND),
    ],
)
def test_bad_call_ends_with_condition_1_and_its_code(start: Start, block: bytes, rc: Rc) -> None:
    guest = start()
    answer = guest.ultravisor.call(block)
    assert (answer.condition, answer.rc) == (1, rc)


def test_page_that_is_no_memory_cannot_be_shared(start: Start) -> None:
    guest = start()
    answer = guest.ultravisor.call(convert(Command.SET_SHARED_ACCESS, MEMORY * MIB))
    assert answer.condition == 1
    assert answer.rc not in set(Rc)


def test_block_that_is_not_aligned_is_a_specification_exception(
    start: Start,
) -> None:
    guest = start()
    with pytest.raises(ProgramCheck, match="specification"):
        guest.ultravisor.call(query(), offset=4)


def test_block_beyond_memory_is_an_addressing_exception(start: Start) -> None:
    guest = start()
    with pytest.raises(ProgramCheck, match="addressing"):
        guest.ultravisor.call_at(MEMORY * MIB)


def test_block_that_ends_beyond_memory_is_an_addressing_exception(
    start: Start,
) -> None:
    guest = start()
    guest.machine.qtest.write(MEMORY * MIB - 8, query()[:8])
    with pytest.raises(ProgramCheck, match="addressing"):
        guest.ultravisor.call_at(MEMORY * MIB - 8)


def test_all_is_shared_until_the_first_call(start: Start) -> None:
    guest = start()
    before = guest.info
    guest.ultravisor.call(HEADER.pack(8, 0, 0, 0))
    after = guest.info
    assert (before["protecting"], before["shared-pages"], before["private-pages"]) == (
        False,
        PAGES,
        0,
    )
    assert (after["protecting"], after["shared-pages"], after["private-pages"]) == (True, 0, PAGES)
    assert after["mode"] == "secure-execution"


def test_shared_pages_are_listed_as_ranges(start: Start) -> None:
    guest = start()
    guest.ultravisor.share(16 * MIB, 5 * PAGE)
    guest.ultravisor.unshare(16 * MIB + 2 * PAGE)
    guest.ultravisor.share(MEMORY * MIB - PAGE)
    info = guest.info
    assert info["shared"] == [
        {"start": 16 * MIB, "size": 2 * PAGE},
        {"start": 16 * MIB + 3 * PAGE, "size": 2 * PAGE},
        {"start": MEMORY * MIB - PAGE, "size": PAGE},
    ]
    assert (info["shared-pages"], info["private-pages"]) == (5, PAGES - 5)


def test_call_that_ends_with_an_access_exception_has_not_begun(start: Start) -> None:
    """Of all the block, and not only its header."""
    guest = start()
    guest.machine.qtest.write(MEMORY * MIB - 8, query()[:8])
    with pytest.raises(ProgramCheck, match="addressing"):
        guest.ultravisor.call_at(MEMORY * MIB - 8)
    assert not guest.info["protecting"]


def test_any_address_in_a_page_names_it(start: Start) -> None:
    guest = start()
    guest.ultravisor.call(convert(Command.SET_SHARED_ACCESS, 16 * MIB + 0x123))
    assert guest.info["shared"] == [{"start": 16 * MIB, "size": PAGE}]


def test_human_monitor_shows_it(start: Start) -> None:
    guest = start()
    guest.ultravisor.share(16 * MIB, 2 * PAGE)
    said = guest.machine.qmp.hmp("info confidential-sim")
    assert "mode: secure-execution" in said
    assert "shared: 0x1000000-0x1001fff" in said


def test_human_monitor_says_that_there_is_none(start: Start) -> None:
    machine = start(machine="s390-ccw-virtio").machine
    assert "has no x-confidential-sim" in machine.qmp.hmp("info confidential-sim")


def test_any_control_block_is_answered(start: Start) -> None:
    guest = start()

    @settings(max_examples=300, deadline=None, database=None)
    @given(block=st.binary(min_size=8, max_size=256), offset=st.integers(0, 4096 // 8))
    def one(block: bytes, offset: int) -> None:
        answer = guest.ultravisor.call(block, offset=offset % 8 * 8)
        assert (answer.condition == 0) == (answer.rc == Rc.EXECUTED)
        assert answer.block[:4] == block[:4]

    one()


def test_map_is_what_the_answers_say(start: Start) -> None:
    guest = start()

    @settings(max_examples=200, deadline=None, database=None)
    @given(
        command=st.sampled_from([1, 0x1000, 0x1001]) | st.integers(0, 0xFFFF),
        size=st.sampled_from([0, 8, 0x28, SHARE_SIZE, 0x38, 0xA0, 0xFFFF]) | st.integers(0, 0xFFFF),
        address=st.integers(0, 2 * MEMORY * MIB) | st.integers(0, (1 << 64) - 1),
    )
    def one(command: int, size: int, address: int) -> None:
        was = shares(guest, address)
        block = struct.pack(">HHHH24xQ8x", size, command, 0, 0, address)
        answer = guest.ultravisor.call(block)
        now = shares(guest, address)
        if answer.condition or command == Command.QUERY:
            assert now == was or not was
        else:
            assert now == (command == Command.SET_SHARED_ACCESS)

    one()


def shares(guest: Guest, address: int) -> bool:
    """Whether a protected guest shares the page of an address."""
    info = guest.info
    ranges = [(one["start"], one["start"] + one["size"]) for one in info["shared"]]
    return info["protecting"] and any(low <= address < high for low, high in ranges)


# What devices may touch


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
    driver = Driver(Ccw(subchannel, 2), guest.memory)
    driver.negotiate()
    queue = driver.queue(0, 16)
    driver.start()
    header = guest.memory.put(struct.pack("<IIQ", Request.IN, 0, 1))
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


def broken(guest: Guest) -> bool:
    """Whether the disk needs a reset (virtio 1.3, 2.1.2), as QEMU sees it."""
    path = "/machine/peripheral/disk/virtio-backend"
    found = guest.machine.qmp.execute("x-query-virtio-status", path=path)
    return bool(found["broken"])


# Resets


def test_system_reset_shares_all_again(start: Start) -> None:
    guest = start()
    guest.ultravisor.query()
    guest.machine.qmp.execute("system_reset")
    guest.machine.qmp.wait_event("RESET", lambda data: True, 10)
    info = guest.info
    assert (info["protecting"], info["private-pages"]) == (False, 0)
    guest.ultravisor.query()
    assert guest.info["protecting"]


@pytest.mark.parametrize("subcode", [0, 1], ids=["modified clear", "load normal"])
def test_diagnose_308_shares_all_again(start: Start, subcode: int) -> None:
    guest = start()
    guest.ultravisor.query()
    # DIAG r1, r3, 0x308: the subcode is in r3.
    diagnose = Instruction(struct.pack(">BBH", 0x83, 0 << 4 | 3, 0x308), {3: subcode})
    impatient = Cpu(guest.machine.qtest, guest.machine.serial, timeout=0.5)
    with pytest.raises((TimeoutError, CpuLost)):
        impatient.run([diagnose])
    poll_until(
        lambda: not guest.info["protecting"] or None, 10, lambda: "all memory to be shared again"
    )


# What is refused


def test_other_accelerators_are_refused(refused: Callable[..., str]) -> None:
    assert "works under TCG alone" in refused(accel="qtest", cpu="qemu")


def test_memory_that_could_be_plugged_is_refused(refused: Callable[..., str]) -> None:
    assert "drop maxmem" in refused(extra=("-m", f"{MEMORY},slots=2,maxmem=1G"))


def test_cpu_without_a_facility_list_is_refused(refused: Callable[..., str]) -> None:
    assert "facility 158" in refused(cpu="max,stfle=off")


def test_incoming_migration_is_refused(refused: Callable[..., str]) -> None:
    assert "can't be migrated" in refused(extra=("-incoming", "defer"))


def test_outgoing_migration_is_refused(start: Start) -> None:
    guest = start()
    with pytest.raises(QmpRefused, match="can't be migrated"):
        guest.machine.qmp.execute("migrate", uri="exec:cat >/dev/null")


def test_snapshot_is_refused(start: Start) -> None:
    guest = start()
    assert "can't be migrated" in guest.machine.qmp.hmp("savevm one")
    assert "can't be used with x-confidential-sim" in guest.machine.qmp.hmp("loadvm one")


def test_kernel_vhost_is_refused(refused: Callable[..., str]) -> None:
    # Nothing is asked of the file before the refusal, so any will do.
    vsock = {"driver": "vhost-vsock-ccw", "guest-cid": 3, "vhostfd": "0"}
    assert "vhost can't be used with x-confidential-sim" in refused(vsock)


def test_host_device_is_refused(start: Start) -> None:
    guest = start()
    with pytest.raises(QmpRefused, match="vfio can't be used with x-confidential-sim"):
        guest.machine.plug({"driver": "vfio-pci", "sysfsdev": "/sys/devices/none"})


def test_object_in_use_cannot_be_deleted(start: Start) -> None:
    guest = start()
    with pytest.raises(QmpRefused, match="in use"):
        guest.machine.qmp.execute("object-del", id="cg0")


def test_it_warns_that_it_protects_nothing(start: Start) -> None:
    guest = start()
    assert "protects nothing" in guest.machine.child.tail()


# vhost-user back-ends, which QEMU can't keep from anything


@pytest.fixture
def plugged(start: Start, lab: Any) -> Callable[[str], tuple[Guest, Backend]]:
    """A guest with a vhost-user device of this type, behind which a back-end in Python is."""

    def plug(kind: str) -> tuple[Guest, Backend]:
        if kind == "vhost-user-vsock":
            offered = mask([FeatureBit.VHOST_USER_PROTOCOL_FEATURES, FeatureBit.VERSION_1])
            behind = Backend(lab.folder / "vsock.sock", features=offered, config=bytes(8))
            lab.owned.enter_context(behind)
        else:
            behind = lab.backend(kind)
        guest = start()
        guest.machine.add_socket("behind", behind.path)
        device = {"driver": f"{kind}-ccw", "chardev": "behind", "devno": "fe.0.0006"}
        known = device_types()
        properties = known[kind].properties if kind in known else {}
        guest.machine.plug({**device, **properties, "iommu_platform": True})
        return guest, behind

    return plug


@pytest.mark.parametrize("kind", ["vhost-user-blk", "vhost-user-vsock", "vhost-user-fs"])
def test_vhost_user_device_plugs(
    plugged: Callable[[str], tuple[Guest, Backend]], kind: str
) -> None:
    guest, behind = plugged(kind)
    guest.ultravisor.share(PROGRAMS)
    guest.ultravisor.share(INDICATORS)
    driver = Driver(Ccw(ChannelSubsystem(guest.cpu).find(6), 2), guest.memory)
    driver.negotiate()
    assert driver.has(FeatureBit.ACCESS_PLATFORM)
    driver.queue(0, 16)
    driver.start()
    assert not (behind.acked_features or 0) >> FeatureBit.ACCESS_PLATFORM & 1
    assert guest.info["violations"] == []


def test_vhost_user_device_on_pci_stays_refused(start: Start, lab: Any) -> None:
    """Each PCI function is translated on s390x, with the simulation as without."""
    behind = lab.backend("vhost-user-fs")
    guest = start()
    guest.machine.add_socket("behind", behind.path)
    device = {"driver": "vhost-user-fs-pci", "chardev": "behind", "tag": "share"}
    with pytest.raises(QmpRefused, match="is behind an IOMMU"):
        guest.machine.plug({**device, "iommu_platform": True})


def test_back_end_touches_shared_pages_alone(
    plugged: Callable[[str], tuple[Guest, Backend]],
) -> None:
    guest, behind = plugged("vhost-user-blk")
    behind.service = lambda queue, request, room: request[8:] * 64 + b"\0"
    queue, driver = working(guest)
    driver.serve(queue, guest.chain())
    assert behind.touched
    assert private_touched(behind, Shared.of(guest.machine)) == []


def test_record_of_a_back_end_shows_a_page_that_is_private(
    plugged: Callable[[str], tuple[Guest, Backend]],
) -> None:
    guest, behind = plugged("vhost-user-blk")
    behind.service = lambda queue, request, room: request[8:] * 64 + b"\0"
    queue, driver = working(guest)
    chain = guest.chain()
    guest.ultravisor.unshare(chain[1].address)
    driver.serve(queue, chain)
    private = private_touched(behind, Shared.of(guest.machine))
    assert {(one.address, one.what, one.write) for one in private} == {
        (chain[1].address, "buffer", True)
    }


def working(guest: Guest) -> tuple[Queue, Driver]:
    """The first queue of the vhost-user device, shared, and its driver at DRIVER_OK."""
    guest.ultravisor.share(PROGRAMS)
    guest.ultravisor.share(INDICATORS)
    driver = Driver(Ccw(ChannelSubsystem(guest.cpu).find(6), 2), guest.memory)
    driver.negotiate()
    return guest.queue(driver), driver
