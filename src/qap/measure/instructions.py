"""How many instructions QEMU takes for a request, from the notification to the interrupt."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from qap.fork.build import Build
from qap.host.errors import QapError
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.machine import Machine, QemuDied
from qap.machine.mapped_memory import MappedMemory
from qap.machine.spec import Spec
from qap.measure import requests
from qap.measure.callgrind import Counted
from qap.measure.comparison import VARIANTS, Measure, Variant, WorkloadRow
from qap.oracle.features import FeatureBit
from qap.vhost_user import backends
from qap.vhost_user.backend import Backend
from qap.vhost_user.programs import null_disk
from qap.virtio import blk, fs
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS, TransportVariant

BACKEND = "backend"
# How many times as many rounds are counted where the median is just beyond a limit.
MOST = 4
# GLib's function that calls the handlers of events. Outside of it the main loop polls for
# events, and how often it does so depends on timing.
DISPATCH = ("g_main_context_dispatch",)
# A notification that becomes a kick, and a call that becomes an interrupt, without the handling
# of QTest commands, which costs several times as much.
RELAY = ("memory_region_dispatch_write", "virtio_queue_guest_notifier_read")

TITLES = {"pci": "PCI", "mmio": "MMIO", "ccw": "CCW"}


class Work(Protocol):
    """Work for devices, the same each time, such as a `qap.measure.requests.Load`.

    Attributes:
        requests: in a batch.
    """

    @property
    def requests(self) -> int: ...
    def batch(self) -> None:
        """Do it once; raises QapError if it is not done."""


@dataclass(frozen=True)
class Case:
    """Devices in QEMU, and what they are given to do.

    Attributes:
        kind: the devices' type without the transport.
        transport: a name of TRANSPORTS.
        load: makes the work, of a driver for each device and of their back-ends.
        devices: properties of each.
        packed: the rings are packed rather than split.
        blockdevs, extra: as in Spec.
        vhost_user: a back-end serves the rings.
        always_modern: the type has no legacy interface, and no property to disable it.
        measure: what is counted.
        inside: the functions in which QEMU's instructions are counted.
    """

    kind: str
    transport: str
    load: Callable[..., Work]
    devices: Sequence[Mapping[str, Any]]
    packed: bool = False
    blockdevs: Sequence[str] = ()
    extra: Sequence[str] = ()
    vhost_user: bool = False
    always_modern: bool = False
    measure: Measure = "instructions"
    inside: Sequence[str] = DISPATCH

    @property
    def name(self) -> str:
        words = [self.kind, TITLES[self.transport.partition(" ")[0]]]
        if self.measure == "instructions":
            words.append("packed" if self.packed else "split")
        return ", ".join(words)

    @property
    def reached(self) -> TransportVariant:
        """How to reach the devices."""
        transport = TRANSPORTS[self.transport]
        return replace(transport, properties={}) if self.always_modern else transport

    def spec(self, iommu_platform: bool, sockets: Sequence[Path] = ()) -> Spec:
        """A machine with the devices; `sockets` are those of its chardevs."""
        made = self.reached.spec(
            self.kind, self.blockdevs, iommu_platform=iommu_platform, packed=self.packed
        )
        devices = [
            {**made.devices[0], **properties, "id": f"dut{number}"}
            for number, properties in enumerate(self.devices)
        ]
        chardevs = [f"socket,id={path.name},path={path}" for path in sockets]
        return replace(made, devices=devices, chardevs=chardevs, extra=[*made.extra, *self.extra])

    def start(
        self,
        machine: Machine,
        memory: MappedMemory,
        iommu_platform: bool,
        backends: Sequence[Backend] = (),
    ) -> Work:
        """Negotiate with the devices; returns the work for them and their back-ends.

        Raises:
            QapError: what was negotiated is something else.
        """
        drivers = [
            requests.driver(transport, memory, self.packed) for transport in self._find(machine)
        ]
        for driver in drivers:
            if driver.has(FeatureBit.ACCESS_PLATFORM) != iommu_platform:
                raise QapError(f"{self.name}: ACCESS_PLATFORM is not what iommu_platform says")
            if driver.has(FeatureBit.RING_PACKED) != self.packed:
                raise QapError(f"{self.name}: the rings are not what was asked for")
        return self.load(*drivers, *backends)

    def _find(self, machine: Machine) -> list[Transport]:
        if len(self.devices) == 1:
            return [self.reached.connect(machine)]
        functions = PciBus(machine.qtest).scan()
        return [PciModern(function) for function in functions if function.vendor_id == VENDOR_ID]


def _blk(transport: str, packed: bool) -> Case:
    blockdevs = [null_disk("disk")]
    return Case("virtio-blk", transport, requests.reads, [{"drive": "disk"}], packed, blockdevs)


def _net(packed: bool) -> Case:
    hub = [word for end in "ab" for word in ("-netdev", f"hubport,id={end},hubid=0")]
    devices = [{"netdev": end} for end in "ab"]
    return Case("virtio-net", "pci modern", requests.frames, devices, packed, extra=hub)


def _rng(packed: bool) -> Case:
    source = ["-object", "rng-builtin,id=source"]
    devices = [{"rng": "source"}]
    return Case("virtio-rng", "pci modern", requests.draws, devices, packed, extra=source)


def _vhost_user(kind: str, queue: int, always_modern: bool = False) -> Case:
    work = partial(requests.relayed, index=queue)
    devices = [{"chardev": BACKEND, **device_types()[kind].properties}]
    return Case(
        kind,
        "pci modern",
        work,
        devices,
        vhost_user=True,
        always_modern=always_modern,
        inside=RELAY,
    )


CASES = (
    _blk("pci modern", packed=False),
    _blk("pci modern", packed=True),
    _blk("mmio 2", packed=False),
    _net(packed=False),
    _net(packed=True),
    _rng(packed=False),
    _rng(packed=True),
    _vhost_user("vhost-user-blk", blk.REQUESTQ),
    _vhost_user("vhost-user-fs", fs.REQUESTQ, always_modern=True),
)


@dataclass
class _Counter:
    """A QEMU under callgrind with a case at work in it."""

    counted: Counted
    load: Work

    def sample(self) -> float:
        """Instructions a request.

        It is the difference of two runs, one twice as long as the other: costs that occur
        once in a run, such as the mark, cancel out.
        """
        # This run takes what QEMU did during the pause, and what is slow after a pause.
        self._run(1)
        once, twice = self._run(1), self._run(2)
        return (twice - once) / self.load.requests

    def _run(self, batches: int) -> int:
        for _ in range(batches):
            self.load.batch()
        return self.counted.mark()


def count(
    case: Case,
    builds: Mapping[str, Build],
    rounds: int,
    done: Callable[[str], None],
    variants: Sequence[Variant] = VARIANTS,
) -> WorkloadRow:
    """Let the builds take turns at a case, with iommu_platform off and on.

    Args:
        builds: by name, fork and base.
        rounds: what decides; up to MOST times as many where they leave a doubt.
        done: is told of each turn of these rounds.
        variants: what takes turns.
    Returns:
        The row; a build that refuses the property is noted as such in it.
    Raises:
        QapError: a QEMU ended, or negotiated something else than it was told to.
        TimeoutError: a device did not do its work.
    """
    row = WorkloadRow(case.name, case.measure)
    with ExitStack() as owned:
        counters = {}
        for variant in variants:
            try:
                counters[variant] = _counter(owned, case, builds[variant.build], variant)
            except QemuDied as died:
                if not died.fenced:
                    raise
                row.refuse(variant)
        number = 0
        while number < rounds or (row.is_doubtful and number < MOST * rounds):
            # The last variant of a round is the first of the next.
            for variant in variants if number % 2 else variants[::-1]:
                if variant in counters:
                    row.add(variant, counters[variant].sample())
                if number < rounds:
                    done(f"{case.name}, {variant}")
            number += 1
    return row


def _counter(owned: ExitStack, case: Case, build: Build, variant: Variant) -> _Counter:
    backends = [_backend(owned, case)] if case.vhost_user else []
    spec = case.spec(variant.iommu_platform, [backend.path for backend in backends])
    binary = build.path(case.reached.emulator)
    counted = owned.enter_context(Counted(binary, spec, case.inside))
    memory = owned.enter_context(MappedMemory.of(counted.machine))
    work = case.start(counted.machine, memory, variant.iommu_platform, backends)
    return _Counter(counted, work)


def _backend(owned: ExitStack, case: Case) -> Backend:
    folder = Path(owned.enter_context(TemporaryDirectory(prefix="qap-")))
    return owned.enter_context(backends.backend(folder / BACKEND, case.kind, access_platform=True))
