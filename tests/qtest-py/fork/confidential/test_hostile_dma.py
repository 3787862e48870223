"""Requests whose descriptors point anywhere: no crash, no hang, no write into private memory.

Disks of three kinds are asked by a driver that means harm. Each works on afterwards.
"""

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from qap.host.wait import poll_until
from qap.hw import ahci, nvme
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.oracle.status import Status
from qap.verify.kit.held_disk import NUMBERED, sector
from qap.verify.kit.sev_guest import SevGuest, started
from qap.verify.kit.simulated_guest import MEMORY
from qap.virtio.blk import SECTOR, Blk, BlkRequest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID as VIRTIO
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer
from qap.virtio.transport import QueueAddresses

RINGS, ROOM = 32 * MIB, 8 * MIB
# Pages that are shared and private by turns, and the last one of RAM, which is private.
FIRST, PAGES = 48 * MIB, 4
END = MEMORY * MIB
PRIVATE = [FIRST + PAGE, FIRST + 3 * PAGE, END - PAGE]
FILLED = b"\x5a" * PAGE
C_BIT = 1 << 47
ANSWER_S = 20.0
LOOKS = 64

NEAR = st.integers(FIRST - 16, FIRST + PAGES * PAGE)
PLACES = st.one_of(
    NEAR,
    NEAR.map(lambda address: address & ~511),
    NEAR.map(lambda address: address | C_BIT),
    st.integers(END - PAGE, END + PAGE),
    st.sampled_from([1 << 40, (1 << 64) - 512, (1 << 64) - 1]),
)
SIZES = st.sampled_from([1, 2, 512, 1024, PAGE, 2 * PAGE]) | st.integers(1, 64 * 1024)


@dataclass(frozen=True)
class Attack:
    """A request.

    Attributes:
        kind: chooses the command.
        regions: addresses and sizes in bytes of the data.
        structure: where the device is to find one of its structures; None is a place of its own.
    """

    kind: int
    regions: list[tuple[int, int]]
    structure: int | None


ATTACKS = st.builds(
    Attack,
    st.integers(0, 63),
    st.lists(st.tuples(PLACES, SIZES), min_size=1, max_size=8),
    st.none() | PLACES,
)


class Target(ABC):
    """A disk with the contents of NUMBERED, and its driver."""

    @abstractmethod
    def attack(self, attack: Attack) -> str:
        """Carry it out, and wait for its end; returns how it ended."""

    @abstractmethod
    def recover(self) -> None:
        """Do what a driver does after an error."""

    @abstractmethod
    def first_sector(self) -> bytes:
        """Read it."""


class OnAhci(Target):
    """Its structures are the command list and the received FISes."""

    COMMANDS = (
        *(ahci.READ_DMA, ahci.WRITE_DMA, ahci.READ_QUEUED, ahci.WRITE_QUEUED),
        *(ahci.READ_PIO, ahci.WRITE_PIO, ahci.TRIM),
    )

    def __init__(self, guest: SevGuest, memory: GuestMemory) -> None:
        function = PciBus(guest.machine.qtest).find(ahci.VENDOR_ID, ahci.DEVICE_ID)
        self.port = ahci.AhciPort(function, memory)
        self.buffer = memory.take(SECTOR, PAGE)
        self.port.start()

    def attack(self, attack: Attack) -> str:
        port = self.port
        if attack.structure is not None:
            port.stop()
            port.start(**{("command_list", "fises")[attack.kind % 2]: attack.structure})
        command = self.COMMANDS[attack.kind % len(self.COMMANDS)]
        regions = [ahci.Region(*region) for region in attack.regions]
        port.issue(command, attack.kind, regions)
        # A command may never end: its list may be empty, or there is no room for its data.
        ends = (self._end() for _ in range(LOOKS))
        return next((end for end in ends if end), "left alone")

    def _end(self) -> str | None:
        bus_error = self.port.interrupts & ahci.IS_HOST_BUS_FATAL
        if bus_error or self.port.get(ahci.TFD) & ahci.TFD_ERROR:
            return "failed"
        if not self.port.get(ahci.CMD) & ahci.CMD_LIST_RUNNING:
            return "not begun"
        return None if self.port.get(ahci.CI) | self.port.get(ahci.SACT) else "done"

    def recover(self) -> None:
        self.port.stop()
        self.port.reset()

    def first_sector(self) -> bytes:
        self.port.memory.write(self.buffer, bytes(SECTOR))
        self.port.run(ahci.READ_DMA, 0, [ahci.Region(self.buffer, SECTOR)])
        return self.port.memory.read(self.buffer, SECTOR)


class OnNvme(Target):
    """Its structure is a list of PRP entries."""

    def __init__(self, guest: SevGuest, memory: GuestMemory) -> None:
        self.memory = memory
        function = PciBus(guest.machine.qtest).find(nvme.VENDOR_ID, nvme.DEVICE_ID)
        self.controller = nvme.Nvme(function, memory)
        self.recover()

    def attack(self, attack: Attack) -> str:
        (first, size), *others = attack.regions
        entries = struct.pack(f"<{len(others)}Q", *(address for address, _ in others))
        own = self.memory.put(entries or bytes(8))
        second = own if attack.structure is None else attack.structure
        opcode = (nvme.READ, nvme.WRITE)[attack.kind % 2]
        count = -(-size // nvme.BLOCK)
        try:
            self.controller.move_by((first, second), opcode, attack.kind, count)
        except nvme.NvmeFailed:
            return "failed"
        return "done"

    def recover(self) -> None:
        self.memory.give_back()
        self.controller.start()

    def first_sector(self) -> bytes:
        buffer = self.memory.take(SECTOR, PAGE)
        self.controller.read(0, buffer, SECTOR)
        return self.memory.read(buffer, SECTOR)


class OnVirtio(Target):
    """Its structures are the header of a request and the rings."""

    def __init__(self, guest: SevGuest, memory: GuestMemory) -> None:
        self.driver = Driver(PciModern(PciBus(guest.machine.qtest).find(VIRTIO)), memory)

    def attack(self, attack: Attack) -> str:
        driver = self.driver
        self.recover()
        kinds = list(BlkRequest)
        kind = kinds[attack.kind % len(kinds)]
        header = driver.memory.put(struct.pack("<IIQ", kind, 0, attack.kind))
        queue = driver.queue(0)
        if attack.structure is not None:
            ring = attack.kind % 4
            areas = [queue.addresses.desc, queue.addresses.driver, queue.addresses.device]
            if ring < len(areas):
                areas[ring] = attack.structure
                driver.transport.enable_queue(0, QueueAddresses(queue.size, *areas))
            else:
                header = attack.structure
        writable = kind != BlkRequest.OUT
        chain = [Buffer(header, 16)]
        chain += [Buffer(address, size, writable) for address, size in attack.regions]
        if attack.kind & 32:
            chain.append(Buffer(driver.memory.take(1), 1, writable=True))
        driver.start()
        queue.add(chain)
        driver.transport.notify(queue.index)

        def end() -> str | None:
            if Status.DEVICE_NEEDS_RESET in driver.transport.status:
                return "failed"
            if queue.take_used():
                return "done"
            return None

        return poll_until(end, ANSWER_S, lambda: f"the end of {attack}")

    def recover(self) -> None:
        self.driver.memory.give_back()
        assert self.driver.negotiate()

    def first_sector(self) -> bytes:
        return Blk(self.driver).read(0)


TARGETS: dict[str, tuple[list[Device], type[OnAhci | OnNvme | OnVirtio]]] = {
    "ahci": (
        [
            {"driver": "ahci", "id": "dut"},
            {"driver": "ide-hd", "bus": "dut.0", "drive": "disk0"},
        ],
        OnAhci,
    ),
    "nvme": ([{"driver": "nvme", "id": "dut", "serial": "1", "drive": "disk0"}], OnNvme),
    "virtio": (
        [{"driver": "virtio-blk-pci", "id": "dut", "drive": "disk0", "iommu_platform": True}],
        OnVirtio,
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_disk_stays_away_from_private_memory(tmp_path: Path, name: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(NUMBERED)
    devices, drive = TARGETS[name]
    # What an attack writes is gone with QEMU, and it doesn't write sector 0.
    blockdevs = [f"driver=raw,node-name=disk0,file.driver=file,file.filename={image}"]
    with started(tmp_path, Mode.LONG, board="pc", devices=devices, blockdevs=blockdevs) as guest:
        qtest = guest.machine.qtest
        guest.protect()
        guest.share(RINGS, ROOM)
        for page in range(FIRST, FIRST + PAGES * PAGE, 2 * PAGE):
            guest.share(page)
        target = drive(guest, GuestMemory(qtest, RINGS, ROOM))

        @settings(
            max_examples=150,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(attack=ATTACKS)
        def check(attack: Attack) -> None:
            for page in PRIVATE:
                qtest.b64write(page, FILLED)
            event(target.attack(attack))
            for page in PRIVATE:
                assert qtest.b64read(page, PAGE) == FILLED
            target.recover()
            assert target.first_sector() == sector(0)

        check()
