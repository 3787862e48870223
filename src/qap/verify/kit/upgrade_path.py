"""The tables of docs/upgrade.md: each of their rows, as a live migration of a driven device."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from qap.export import compat
from qap.fork.build import Build
from qap.host.paths import FIRST_SERIES, Project
from qap.hw.pci_bus import PciBus
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.catalog import device_types, machine_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.qtest_follow import MovingQtest
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.migrate import ARRIVED, migrate
from qap.vhost_user.backends import backend
from qap.vhost_user.memory.dirty_log import LOG_ALL
from qap.vhost_user.protocol import ProtocolFeature
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import SERVED_S, Behaviour, Driver
from qap.virtio.mmio import mmio_slots
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS, Beside

PROJECT = Project.here()
TABLE = PROJECT.root / "docs/upgrade.md"
LOOKS = 64
# virtio-pmem flushes in a thread of its own, and a back-end has one, too: no number of looks is
# enough for those. Rows expect that virtio-pmem is not served, so it is not waited for so long.
THREADS = {"virtio-pmem": 3.0, "vhost-user-blk": SERVED_S}
QUEUE_SIZE = 8
# The columns of the tables: from which build to which.
WAYS = ("stock to fork", "fork to stock", "fork to fork")
ACROSS = (
    "fork 10.0 to fork 10.2",
    "fork 10.2 to fork 10.0",
    "stock 10.0 to fork 10.2",
    "fork 10.2 to stock 10.0",
)
# What may stand in them.
GOES_ON, UNSERVED = "goes on", "arrives, not served"
REFUSED, NO_START = "refused", "does not start"
OUTCOMES = (GOES_ON, UNSERVED, REFUSED, NO_START)

TRANSPORT_NAMES = {
    "PCI": "pci modern",
    "PCI legacy": "pci legacy",
    "MMIO 1": "mmio 1",
    "MMIO 2": "mmio 2",
    "CCW": "ccw 2",
    "CCW revision 0": "ccw 0",
}
ANYTHING = mask(range(64))
DRIVERS: Mapping[str, Behaviour | None] = {
    "accepted the bit": Behaviour(),
    "did not, and runs": Behaviour(obeys=False).without(FeatureBit.ACCESS_PLATFORM),
    "has not begun": None,
    "accepted all it was offered": Behaviour(supports=ANYTHING),
    "knows no such bit": Behaviour(0, sets_features_ok=False),
}
# What a machine type's name may end with: a switch, of each fork that has it.
SWITCHES = {"as stock": compat.STOCK, f"as fork {FIRST_SERIES}": compat.FIRST_FORK}


class Case(NamedTuple):
    """A cell of a table, for one transport."""

    machine: str
    bit: str
    device: str
    transport: str
    driver: str
    way: str
    outcome: str


def cases(ways: Sequence[str]) -> list[Case]:
    """The cells of the table that has these columns; those with a dash have nothing to test."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    head = ["machine type", "iommu_platform", "device", "on", "driver", *ways]
    below = rows[rows.index(head) + 1 :]
    table = list(takewhile(lambda row: row[0] != head[0], below))
    return [
        Case(machine, bit, device, transport, driver, way, outcome)
        for machine, bit, device, transports, driver, *outcomes in table
        for transport in transports.split(", ")
        for way, outcome in zip(ways, outcomes, strict=True)
        if outcome != "-"
    ]


def name(case: Case) -> str:
    """A test's name: what leads to the outcome."""
    return "-".join(case[:6]).replace(" ", "_")


@dataclass
class Moving:
    """A driver that moves with its VM."""

    transport: Transport
    memory: GuestMemory
    session: MovingQtest
    cpu: Cpu | None

    def follow(self, machine: Machine) -> None:
        self.session.now = machine.qtest
        if self.cpu:
            self.cpu.move(machine.serial)


def connect(variant: str, machine: Machine) -> Moving:
    """A transport that can follow the VM, to the machine's only virtio device."""
    session = MovingQtest(machine.qtest)
    cpu = None
    transport: Transport
    if variant.startswith("ccw"):
        cpu = Cpu(session, machine.serial)
        (subchannel,) = ChannelSubsystem(cpu).scan()
        subchannel.enable()
        transport = VirtioCcw(subchannel, int(variant[-1]))
    elif variant.startswith("mmio"):
        (transport,) = mmio_slots(session)
    else:
        kind = PciLegacy if variant == "pci legacy" else PciModern
        transport = kind(PciBus(session).find(VENDOR_ID))
    return Moving(transport, GuestMemory(session, 16 * MIB), session, cpu)


@dataclass(frozen=True)
class Hosts:
    """The QEMUs between which a VM moves.

    Args:
        folder: for sockets, logs and the files of `qap export`.
    """

    case: Case
    source: Build
    destination: Build
    folder: Path
    owned: ExitStack

    def start(self, build: Build, *, waits: bool = False) -> Machine:
        """Start one; raises QemuDied where it refuses its command line."""
        kind, _, switch = self.case.machine.partition(", ")
        variant = TRANSPORTS[TRANSPORT_NAMES[self.case.transport]]
        type_ = variant.machine
        if kind != type_:
            type_ = machine_types()[type_].versioned.format(kind)
        row = device_types()[self.case.device]
        extra = ["-incoming", "defer"] if waits else []
        if switch and not build.is_base:
            extra += self._switched(build, SWITCHES[switch], ccw=variant.suffix == "ccw")
        side = "destination" if waits else "source"
        chardevs = [f"socket,id=behind,path={self._behind(side)}"] if row.vhost_user else []
        spec = replace(variant, machine=type_).spec(
            self.case.device,
            (),
            Beside(chardevs=chardevs, extra=[*row.args, *extra]),
            iommu_platform=self.case.bit == "on",
            **row.properties,
            **({"chardev": "behind"} if chardevs else {}),
        )
        machine = Machine(build.path(variant.emulator), spec, log=self.folder / f"{side}.log")
        return self.owned.enter_context(machine)

    def _behind(self, side: str) -> Path:
        """The socket of a back-end that can migrate, and that offers the reset of a queue."""
        path = self.folder / f"{side}.sock"
        made = backend(path, self.case.device, access_platform=True)
        made.features |= mask([LOG_ALL, FeatureBit.RING_RESET])
        made.protocol_features |= mask([ProtocolFeature.LOG_SHMFD])
        self.owned.enter_context(made)
        return path

    def _switched(self, build: Build, switch: str, *, ccw: bool) -> list[str]:
        """The options of a switch, from the export of the build's own base."""
        options = []
        for file, text in compat.chosen(build.project, switch, ccw=ccw).items():
            path = self.folder / f"{build.project.base_series}-{file}"
            path.write_text(text)
            options += ["-readconfig", str(path)]
        return options


def outcome(hosts: Hosts) -> str:
    """What becomes of a driver that moves: one of OUTCOMES."""
    case = hosts.case
    try:
        source = hosts.start(hosts.source)
        destination = hosts.start(hosts.destination, waits=True)
    except QemuDied as died:
        assert died.status == 1
        assert "iommu_platform=on" in died.said
        return NO_START
    moving = connect(TRANSPORT_NAMES[case.transport], source)
    behaviour = DRIVERS[case.driver]
    probe = device_types()[case.device].probe
    assert probe
    driver = Driver(moving.transport, moving.memory, behaviour)

    def begin() -> Queue:
        status = driver.negotiate()
        queue = driver.queue(probe.queue, QUEUE_SIZE)
        moving.transport.set_status(status | Status.DRIVER_OK)
        return queue

    def is_served(queue: Queue) -> bool:
        """Whether a buffer is used; each look is a turn of QEMU's main loop."""
        chain = [Buffer(moving.memory.put(probe.data), len(probe.data))] if probe.data else []
        queue.add([*chain, Buffer(moving.memory.take(probe.room), probe.room, writable=True)])
        moving.transport.notify(probe.queue)
        if case.device not in THREADS:
            return any(queue.take_used() for _ in range(LOOKS))
        try:
            queue.wait_used(THREADS[case.device])
        except TimeoutError:
            return False
        return True

    queue, was_served = None, True
    if behaviour:
        queue = begin()
        was_served = is_served(queue)
    else:
        moving.transport.reset()
    said = migrate(source, destination, hosts.folder)
    if said != ARRIVED:
        assert case.device in said
        return REFUSED
    moving.follow(destination)
    if is_served(queue or begin()):
        assert was_served, "it is served where it arrives, and was not before"
        return GOES_ON
    return UNSERVED
