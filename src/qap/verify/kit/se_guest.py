"""A simulated Secure Execution guest that Python drives: its CPU, ultravisor and disk."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.hw.ultravisor import Ultravisor
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import mask
from qap.scenario.confidential import ID, VIOLATION
from qap.virtio.blk import BlkRequest
from qap.virtio.ccw import INDICATORS, VirtioCcw
from qap.virtio.driver import MODERN, Behaviour, Driver
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
SIMULATION = f"x-confidential-sim,id={ID}"
IN_USE = f"s390-ccw-virtio,confidential-guest-support={ID}"
# The page with the data of s390x_stub's guest, which include its channel programs.
PROGRAMS = Cpu.DATA // PAGE * PAGE
UNANSWERED = b"\xff"


class PageEach(GuestMemory):
    """Memory in which every allocation gets a page of its own."""

    def take(self, size: int, alignment: int = 16) -> int:
        return super().take(size, PAGE)


@dataclass
class SeGuest:
    """A machine, the ultravisor of its only CPU, and memory to work in."""

    machine: Machine
    cpu: Cpu
    ultravisor: Ultravisor
    memory: GuestMemory

    @property
    def info(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.machine.qmp.execute("x-query-confidential-sim")
        return answer

    def violation(self) -> dict[str, Any]:
        """The next violation event of QEMU."""
        return self.machine.qmp.wait_event(VIOLATION, lambda data: True, 10)

    def driver(self, *more: int) -> Driver:
        """A driver of the disk, whose memory is all shared."""
        self.ultravisor.share(PROGRAMS)
        self.ultravisor.share(INDICATORS)
        subchannel = ChannelSubsystem(self.cpu).find(5)
        wanted = Behaviour(supports=MODERN | mask(more))
        driver = Driver(VirtioCcw(subchannel, 2), self.memory, wanted)
        driver.negotiate()
        return driver

    def queue(self, driver: Driver) -> Queue:
        """Set up and share the disk's queue, of 16 entries, and set DRIVER_OK."""
        queue = driver.queue(0, 16)
        for address in (queue.addresses.desc, queue.addresses.driver, queue.addresses.device):
            self.ultravisor.share(address)
        driver.start()
        return queue

    def chain(self) -> list[Buffer]:
        """A request that reads sector 1 of the disk: header, data and status, each shared."""
        header = self.memory.put(struct.pack("<IIQ", BlkRequest.IN, 0, 1))
        room, status = self.memory.take(512), self.memory.put(UNANSWERED)
        for address in (header, room, status):
            self.ultravisor.share(address)
        return [
            Buffer(header, 16),
            Buffer(room, 512, writable=True),
            Buffer(status, 1, writable=True),
        ]

    def offer(self, driver: Driver, queue: Queue, chain: list[Buffer]) -> None:
        """Add a chain to the queue and notify the disk, without waiting for it."""
        queue.add(chain)
        driver.transport.notify(queue.index)


# Starts a machine in which Python drives the CPU; see `start`.
Start = Callable[..., SeGuest]
