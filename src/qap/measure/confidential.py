"""`qap bench confidential`: what x-confidential-sim costs, off and on."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

from qap.fork import series
from qap.fork.build import Build, make
from qap.fork.prefix import Prefix, scratch_tree
from qap.host.cpu_time import others
from qap.host.errors import QapError
from qap.host.paths import Project
from qap.host.progress import bar
from qap.host.report import Report, bad, good, table
from qap.machine import catalog
from qap.machine.catalog import device_types, machine_types
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.measure.estimate import median
from qap.measure.gauge import Gauge
from qap.measure.io import shown
from qap.measure.page_walks import PAGES, Walks
from qap.measure.verdict import CostVerdict, Limit
from qap.scenario import confidential
from qap.scenario.confidential_kind import ConfidentialKind
from qap.vhost_user.programs import null_disk

Part = Literal["off", "on"]
PARTS: tuple[Part, ...] = ("off", "on")
TOPIC = "confidential"
# A disturbed count is greater, and rare.
COUNTS = 3
BOOTS = 15
READS = 15
OFF = Limit(1.001, exact=True)
BOOT = Limit(1.1)
READ = Limit(0.9)
READ_MIB = 32
DISK = "disk"


@dataclass(frozen=True)
class ConfidentialGuest:
    """A kind of confidential guest, and what it is compared with.

    Attributes:
        kind: what it takes itself for.
        bounces: its kernel can be told to bounce its I/O where it is not protected.
    """

    kind: ConfidentialKind
    bounces: bool

    @property
    def name(self) -> str:
        return self.kind.upper()

    def spec(self, protected: bool) -> Spec:
        """A machine with a disk that holds nothing and takes no time."""
        settings = catalog.guest(self.kind.traits.guest)
        place = machine_types()[settings.machine]
        disk = {"driver": f"virtio-blk-{place.transport}", "drive": DISK, **place.place}
        spec = Spec(
            place.name,
            cpu=settings.cpu,
            memory=settings.memory,
            blockdevs=[null_disk(DISK)],
            devices=[*place.ports, {**disk, "iommu_platform": True}],
            boot=Boot(
                settings,
                device_types()["virtio-blk"].modules,
                packaged=self.kind.traits.packaged,
            ),
        )
        if protected:
            return confidential.simulated(spec, self.kind)
        return confidential.bounced(spec) if self.bounces else spec


# Linux on s390x makes no bounce buffers in a guest that is not protected, even with swiotlb=force.
GUESTS = (
    ConfidentialGuest(ConfidentialKind.SEV, bounces=True),
    ConfidentialGuest(ConfidentialKind.SNP, bounces=True),
    ConfidentialGuest(ConfidentialKind.TDX, bounces=True),
    ConfidentialGuest(ConfidentialKind.SE, bounces=False),
)


def bench(build: Build, parts: Sequence[Part]) -> Report:
    """Measure, and print the table.

    Args:
        build: the fork.
    Raises:
        QapError: a guest or a build failed.
    """
    start = time.monotonic()
    gauges: list[Gauge] = []
    if "off" in parts:
        gauges += off(build)
    if "on" in parts:
        for guest in GUESTS:
            gauges += on(guest, build)
    seconds = time.monotonic() - start
    _print(gauges, seconds)
    ok = not any(gauge.verdict == CostVerdict.WORSE for gauge in gauges)
    return Report("bench", ok, seconds, [gauge.as_dict() for gauge in gauges])


def off(build: Build) -> list[Gauge]:
    """Without the object: the whole queue beside the queue without its topic."""
    sweep = Gauge("off: walk to a page, and read it", "instructions", OFF)
    walk = Gauge("off: walk to a page", "instructions", None)
    with without_topic(build.project, build.profile) as before, bar("instructions") as progress:
        done = 0
        for gauge, words in ((sweep, PAGES), (walk, 1)):
            for _ in range(COUNTS):
                gauge.with_it.append(Walks(build, words).sample())
                gauge.without.append(Walks(before, words).sample())
                done += 1
                progress(done, 2 * COUNTS, gauge.name)
            # The least count is the least disturbed.
            gauge.with_it, gauge.without = [min(gauge.with_it)], [min(gauge.without)]
    return [sweep, walk]


@contextmanager
def without_topic(project: Project, profile: str) -> Iterator[Build]:
    """A build of the series up to the first patch of the topic.

    Raises:
        QapError: the topic is not last, so that there is no such build.
    """
    topics = [patch.name.partition("/")[0] for patch in series.patches(project)]
    count = topics.index(TOPIC)
    if set(topics[count:]) != {TOPIC}:
        raise QapError(f"qemu/series has other patches after those of {TOPIC}")
    with scratch_tree(project) as git:
        git("checkout", "-q", "--detach", series.commits(project, git, count))
        built = Prefix(profile, project=project)
        make(built)
        yield built


def on(guest: ConfidentialGuest, build: Build) -> list[Gauge]:
    """A protected guest beside one that is not: boots, and reads of a disk, in turns."""
    boots = Gauge(f"{guest.name}: a boot", "seconds", BOOT)
    least = READ if guest.bounces else None
    reads = Gauge(f"{guest.name}: reads of 64 KiB", "MiB a second", least)
    with bar(guest.name) as progress, others() as usage:
        for turn in range(BOOTS):
            taken = {}
            for protected in _order(turn):
                with _booted(guest, build, protected) as (_, seconds):
                    taken[protected] = seconds
            _add(boots, taken)
            progress(turn + 1, BOOTS + READS, boots.name)
        with ExitStack() as owned:
            machines = {
                protected: owned.enter_context(_booted(guest, build, protected))[0]
                for protected in (True, False)
            }
            for machine in machines.values():
                _rate(machine)
            for turn in range(READS):
                _add(reads, {key: _rate(machines[key]) for key in _order(turn)})
                progress(BOOTS + turn + 1, BOOTS + READS, reads.name)
            confidential.prove(machines[True], guest.kind)
    boots.others = reads.others = usage.share
    return [boots, reads]


def _order(turn: int) -> list[bool]:
    """A turn affects the next one: the order is random, but the same in each run."""
    return random.Random(turn).sample([True, False], 2)


def _add(gauge: Gauge, taken: Mapping[bool, float]) -> None:
    gauge.with_it.append(taken[True])
    gauge.without.append(taken[False])


@contextmanager
def _booted(
    guest: ConfidentialGuest, build: Build, protected: bool
) -> Iterator[tuple[Machine, float]]:
    """A guest that is up, and how many seconds that took from QEMU's start."""
    binary = build.path(f"qemu-system-{guest.kind.traits.target}")
    start = time.monotonic()
    with Machine(binary, guest.spec(protected)) as machine:
        machine.boot()
        yield machine, time.monotonic() - start


def _rate(machine: Machine) -> float:
    """MiB a second by the guest's own clock, read past its page cache."""
    console = machine.console
    device = io_checks.find(console, device_types()["virtio-blk"].device_id)
    node = console.check(f"ls /sys/bus/virtio/devices/{device}/block")
    ticks = console.check(
        "read before rest </proc/uptime; "
        f"dd if=/dev/{node} of=/dev/null bs=64k count={READ_MIB * 16} iflag=direct 2>/dev/null && "
        "read after rest </proc/uptime && echo $before $after"
    )
    before, after = map(float, ticks.split())
    return READ_MIB / (after - before)


def _print(gauges: Sequence[Gauge], seconds: float) -> None:
    lines = []
    for gauge in gauges:
        mark = bad if gauge.verdict == CostVerdict.WORSE else good
        decimals = 4 if gauge.unit == "instructions" else 2
        values = (f"{median(values).value:,.1f}" for values in (gauge.with_it, gauge.without))
        lines.append(
            [
                gauge.name,
                *values,
                gauge.unit,
                mark(shown(gauge.ratio, decimals)),
                str(gauge.limit or ""),
                gauge.verdict,
            ]
        )
    columns = ["", "with", "without", "", "ratio", "asked", ""]
    table(f"x-confidential-sim ({seconds:.0f} s)", columns, lines)
    for gauge in gauges:
        if gauge.verdict == CostVerdict.UNSURE:
            said = f"{gauge.name}: {gauge.reason}: try again"
            Console().print(escape(said), highlight=False)
