"""`qap bench io` measures the cost of a request and detects a QEMU with a higher cost."""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.fork.mutant import BUNDLE, StandIn, mutant
from qap.host.errors import QapError
from qap.measure import instructions, throughput
from qap.measure.callgrind import Counted
from qap.measure.comparison import VARIANTS, Variant, WorkloadRow
from qap.measure.config_reads import COUNTED, READS, TIMED, config_rates
from qap.measure.instructions import CASES
from qap.measure.verdict import CostVerdict

# Ten times the usual time, for a machine that is shared with others.
pytestmark = pytest.mark.timeout(400)

SYSTEM = "qemu-system-x86_64"
BUILD = Build.under_test()
ROUNDS = 2
OFF = [variant for variant in VARIANTS if not variant.iommu_platform]
ON = [variant for variant in VARIANTS if variant.iommu_platform]
# Code that runs for each request in a split ring.
ENTRANCE = re.compile(r"(static void \*virtqueue_split_pop\([^{]*\{)")
DAWDLE = "\\1\n    for (volatile int turn = 0; turn < 100; turn++) { }\n"
# Code that runs for each read of a disk's configuration.
SHOWN = re.compile(r"(static void virtio_blk_update_config\([^{]*\{)")
LINGER = "\\1\n    for (volatile int turn = 0; turn < 20; turn++) { }\n"


def counted(name: str, builds: Mapping[str, Build], variants: Sequence[Variant]) -> WorkloadRow:
    turns: list[str] = []
    chosen = next(case for case in (*CASES, *COUNTED) if case.name == name)
    row = instructions.count(chosen, builds, ROUNDS, turns.append, variants)
    assert len(turns) == len(variants) * ROUNDS
    assert all(len(values) == ROUNDS for values in row.samples.values())
    return row


def test_events_that_qemu_relays_are_counted() -> None:
    """The same QEMU twice takes exactly the same number of instructions."""
    row = counted("vhost-user-fs, PCI, split", {"fork": BUILD, "base": BUILD}, ON)
    assert row.samples["fork on"] == row.samples["base on"]
    assert len(set(row.samples["fork on"])) == 1
    assert 500 < row.samples["fork on"][0] < 5_000


def test_qemu_that_does_more_for_a_request_is_worse() -> None:
    def edit(source: str) -> str:
        changed, times = ENTRANCE.subn(DAWDLE, source)
        assert times == 1
        return changed

    with tempfile.TemporaryDirectory(prefix="qap-") as folder:
        changed = mutant(BUILD, SYSTEM, "hw/virtio/virtio.c", edit, Path(folder))
        slow = StandIn(BUILD.profile, BUILD.is_base, tool=SYSTEM, program=changed)
        row = counted("virtio-rng, PCI, split", {"fork": slow, "base": BUILD}, OFF)
    assert not row.ok
    comparison = row.compared("fork off", "base off")
    assert comparison.verdict == CostVerdict.WORSE
    assert comparison.ratio is not None
    assert 1.01 < comparison.ratio.value < 1.2
    for values in row.samples.values():
        assert max(values) < 1.005 * min(values)


def test_qemu_that_does_more_for_a_read_of_configuration_is_worse() -> None:
    """And what QTest does for it is not counted."""

    def edit(source: str) -> str:
        changed, times = SHOWN.subn(LINGER, source)
        assert times == 1
        return changed

    with tempfile.TemporaryDirectory(prefix="qap-") as folder:
        changed = mutant(BUILD, SYSTEM, "hw/block/virtio-blk.c", edit, Path(folder))
        slow = StandIn(BUILD.profile, BUILD.is_base, tool=SYSTEM, program=changed)
        row = counted("virtio-blk, PCI", {"fork": slow, "base": BUILD}, OFF)
    assert not row.ok
    comparison = row.compared("fork off", "base off")
    assert comparison.ratio is not None
    assert 1.02 < comparison.ratio.value < 1.2
    assert len(set(row.samples["base off"])) == 1
    assert 500 < row.samples["base off"][0] < 3_000


def test_commands_of_channel_programs_are_counted_without_the_guests_code() -> None:
    row = counted("virtio-blk, CCW", {"fork": BUILD, "base": BUILD}, OFF)
    for values in row.samples.values():
        assert 5_000 < min(values) <= max(values) < 100_000
        assert max(values) < 1.1 * min(values)


@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.name)
def test_reads_of_configuration_take_turns(case: instructions.Case) -> None:
    turns: list[str] = []
    row = config_rates(case, {"fork": BUILD, "base": BUILD}, ROUNDS, turns.append)
    assert len(turns) == len(VARIANTS) * ROUNDS
    assert {len(values) for values in row.samples.values()} == {ROUNDS}
    assert min(map(min, row.samples.values())) > READS
    assert 0 <= row.others <= 1


def test_stripped_qemu_is_named(tmp_path: Path) -> None:
    """Its functions have no names for callgrind."""
    binary = BUILD.path(SYSTEM)
    bare = tmp_path / SYSTEM
    subprocess.run(["strip", "-o", bare, binary], check=True)
    (tmp_path / BUNDLE).symlink_to(binary.parent / BUNDLE)
    with (
        Counted(bare, CASES[0].spec(iommu_platform=False), []) as guest,
        pytest.raises(QapError, match="is it stripped"),
    ):
        guest.mark()


def test_function_that_qemu_does_not_have_is_named() -> None:
    with (
        Counted(BUILD.path(SYSTEM), CASES[0].spec(iommu_platform=False), ["no_such"]) as guest,
        pytest.raises(QapError, match="do nothing in no_such"),
    ):
        guest.mark()


def test_guests_take_turns_at_a_back_end() -> None:
    """The base refuses it with iommu_platform=on, the fork does not."""
    builds = {"fork": Build("lab"), "base": Build("lab", is_base=True)}
    turns: list[str] = []
    (row,) = throughput.rates("vhost-user-blk", builds, ROUNDS, 0.05, turns.append, ON)
    assert row.refused == {"base on": "the base refuses iommu_platform=on"}
    assert sorted(row.samples) == ["fork on"]
    assert len(row.samples["fork on"]) == ROUNDS
    assert min(row.samples["fork on"]) > 0
    assert len(turns) == len(ON) * (1 + ROUNDS)
    assert 0 <= row.others <= 1
