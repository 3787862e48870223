"""How many requests a second a guest gets through: real drivers, TCG, real back-ends."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from qap.fork.build import Build
from qap.host.cpu_time import others
from qap.host.errors import QapError
from qap.machine.guest import io_checks
from qap.machine.guest.console import Console
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.measure.comparison import VARIANTS, Variant, WorkloadRow
from qap.oracle.features import FeatureBit
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import DISK, scenario_spec
from qap.vhost_user.programs import BackendProcess, null_disk, storage_daemon, virtiofsd

GUEST = "x86_64"
PROGRAM = "io-load"
KIB = 1 << 10
FILE = "file"
FILE_SIZE = 64 << 20
MOUNTED = "/mnt/share"
SLACK_S = 60.0
Done = Callable[[str], None]


@dataclass(frozen=True)
class Reading:
    """What a guest does with a disk or a file: reads past its page cache.

    Attributes:
        block: bytes of each read.
        depth: reads under way.
        order: random or sequential.
    """

    block: int
    depth: int
    order: str

    def __str__(self) -> str:
        return f"{self.block // KIB} KiB {self.order}, depth {self.depth}"

    def command(self, path: str, seconds: float) -> str:
        """The command in the guest."""
        milliseconds = round(seconds * 1000)
        return f"{PROGRAM} {path} {self.block} {self.depth} {self.order} {milliseconds}"


RANDOM = Reading(4 * KIB, 32, "random")
SEQUENTIAL = Reading(128 * KIB, 8, "sequential")
# By names of configs/devices.toml.
READINGS: dict[str, tuple[Reading, ...]] = {
    "virtio-blk": (RANDOM,),
    "vhost-user-blk": (RANDOM,),
    "vhost-user-fs": (SEQUENTIAL, RANDOM),
}


@dataclass(frozen=True)
class BootedGuest:
    """A guest that has booted, and the disk or file that it reads.

    Attributes:
        path: of that, in the guest.
    """

    console: Console
    path: str

    def rate(self, reading: Reading, seconds: float) -> float:
        """Read for some seconds of the guest's own clock; returns requests a second.

        Raises:
            GuestCommandError: a read failed.
            QapError: the program said something else.
        """
        said = self.console.check(reading.command(self.path, seconds), seconds + SLACK_S)
        return rate_of(said)


def rate_of(said: str) -> float:
    """Requests a second, of what io-load prints: requests, and nanoseconds.

    Raises:
        QapError: it printed something else, or did nothing.
    """
    words = said.split()
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        raise QapError(f"{PROGRAM} in the guest said “{said}”, not requests and nanoseconds")
    return int(words[0]) / int(words[1]) * 1e9


def rates(
    device: str,
    builds: Mapping[str, Build],
    rounds: int,
    seconds: float,
    done: Done,
    variants: Sequence[Variant] = VARIANTS,
) -> list[WorkloadRow]:
    """Boot a guest for each build and each state of iommu_platform, and let them take turns.

    Args:
        device: a name of READINGS.
        builds: by name, fork and base.
        seconds: of each turn.
        done: is told of each turn, and of each one that is left out.
        variants: what takes turns.
    Returns:
        A row for each of the device's readings.
    Raises:
        QapError: a guest did not come up, negotiated something else than it was told to, or
            failed to read.
    """
    rows = [WorkloadRow(f"{device}, {reading}", "rate") for reading in READINGS[device]]
    with ExitStack() as owned:
        folder = Path(owned.enter_context(TemporaryDirectory(prefix="qap-")))
        machines: dict[Variant, Machine] = {}
        for variant in variants:
            try:
                started = _started(device, variant, builds[variant.build], folder / str(variant))
                machines[variant] = owned.enter_context(started)
            except QemuDied as died:
                if not died.fenced:
                    raise
                for row in rows:
                    row.refuse(variant)
        # They boot side by side.
        guests = {
            variant: _ready(device, machine, variant) for variant, machine in machines.items()
        }
        for row, reading in zip(rows, READINGS[device], strict=True):
            _take_turns(row, reading, guests, rounds, seconds, done)
            for _ in range((len(variants) - len(guests)) * (1 + rounds)):
                done(row.name)
    return rows


def _take_turns(
    row: WorkloadRow,
    reading: Reading,
    guests: Mapping[Variant, BootedGuest],
    rounds: int,
    seconds: float,
    done: Done,
) -> None:
    # So that TCG has translated the code before it is measured.
    for variant, guest in guests.items():
        guest.rate(reading, seconds)
        done(f"{row.name}, {variant}")
    order = list(guests)
    # A turn affects the next one: the order is random, but the same in each run.
    chance = random.Random(row.name)
    with others() as usage:
        for _ in range(rounds):
            chance.shuffle(order)
            for variant in order:
                row.add(variant, guests[variant].rate(reading, seconds))
                done(f"{row.name}, {variant}")
    row.others = usage.share


@contextmanager
def _started(device: str, variant: Variant, build: Build, folder: Path) -> Iterator[Machine]:
    """A QEMU that boots a guest with the device."""
    scenario = Scenario(guest=GUEST, device=device, iommu_platform=variant.iommu_platform)
    folder.mkdir()
    host_data = io_checks.HostData(folder)
    host_data.shared.mkdir()
    with (host_data.shared / FILE).open("wb") as file:
        file.truncate(FILE_SIZE)
    with ExitStack() as owned:
        service = _service(owned, scenario, build, host_data)
        spec = _spec(scenario, build, service, host_data)
        binary = build.path(f"qemu-system-{scenario.settings.qemu}")
        yield owned.enter_context(Machine(binary, spec, log=folder / "qemu.log"))


def _service(
    owned: ExitStack, scenario: Scenario, build: Build, host_data: io_checks.HostData
) -> BackendProcess | None:
    """The back-end: the build's own storage daemon, or Debian's virtiofsd."""
    backend, folder = scenario.kind.program, host_data.folder
    if backend == "qemu-storage-daemon":
        program = build.path(backend)
        return owned.enter_context(storage_daemon(folder, program, None, "backend"))
    if backend == "virtiofsd":
        architecture = scenario.settings.architecture
        return owned.enter_context(virtiofsd(folder, host_data.shared, architecture, "backend"))
    return None


def _spec(
    scenario: Scenario, build: Build, service: BackendProcess | None, host_data: io_checks.HostData
) -> Spec:
    socket = service.socket if service else None
    spec = scenario_spec(scenario, socket, host_data, is_base=build.is_base)
    assert spec.boot is not None
    blockdevs = [null_disk(DISK)] if spec.blockdevs else []
    return replace(spec, boot=replace(spec.boot, programs=(PROGRAM,)), blockdevs=blockdevs)


def _ready(device: str, machine: Machine, variant: Variant) -> BootedGuest:
    """Wait for the guest, and see what it negotiated."""
    machine.boot()
    console = machine.console
    kind = Scenario(guest=GUEST, device=device).kind
    name = io_checks.find(console, kind.device_id)
    accepted = FeatureBit.ACCESS_PLATFORM in io_checks.negotiated(console, name)
    if accepted != variant.iommu_platform:
        raise QapError(f"{device}, {variant}: the guest accepted something else than was asked for")
    if kind.check == "disk":
        return BootedGuest(
            console, f"/dev/{console.check(f'ls /sys/bus/virtio/devices/{name}/block')}"
        )
    console.check(f"mkdir -p {MOUNTED} && mount -t virtiofs share {MOUNTED}")
    return BootedGuest(console, f"{MOUNTED}/{FILE}")
