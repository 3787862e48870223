"""A sweep of hostile drivers is repeatable, and its judge sees every way to fail."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from qap.fork.build import Build
from qap.host.paths import Project
from qap.measure.hostile import grammar, sweep
from qap.measure.hostile.driver import HostileDriver
from qap.measure.hostile.episode import Episodes
from qap.measure.hostile.failure import Failure
from qap.measure.hostile.grammar import Move
from qap.measure.hostile.name import BATCH, EpisodeName
from qap.measure.hostile.target import Target
from qap.measure.hostile.walk import Step, Walk, walk

PATIENCE_S = 20.0
BASE = Build("lab", is_base=True)
RNG = Target("virtio-rng", "pci modern")
# The first of each of these batches.
HARMLESS = range(0, 20 * BATCH, BATCH)
HARMLESS_SEED = 1
# Its first episodes end stock QEMU.
FAILING_SEED = 2
Act = Callable[[HostileDriver, Random], None]


def _walk(target: Target, *steps: Step) -> Walk:
    return Walk(EpisodeName(0, 0), target, steps)


def attacked(build: Build, target: Target, *moves: str) -> Failure | None:
    """What becomes of a QEMU when these moves are made, after each other."""
    steps = (Step(move, number) for number, move in enumerate(moves))
    with Episodes(build, PATIENCE_S) as episodes:
        return episodes.carry_out(_walk(target, *steps))


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Act], None]:
    """Make a move of one's own out of a function: “own”."""
    return lambda act: monkeypatch.setitem(grammar.MOVES, "own", Move("own", act, 0))


@pytest.mark.parametrize("transport", ["pci modern", "pci legacy", "mmio 1", "mmio 2", "ccw 2"])
@pytest.mark.parametrize("device", ["virtio-rng", "virtio-blk"])
def test_good_driver_does_nothing_that_the_judge_minds(device: str, transport: str) -> None:
    requests = ("begin", *("request-of-its-type",) * 5, "reset-in-flight", "system-reset")
    failure = attacked(Build.under_test(), Target(device, transport), *requests)
    assert failure is None, failure


def test_tens_of_episodes_are_survived() -> None:
    failures = []
    for number in HARMLESS:
        with Episodes(Build.under_test(), PATIENCE_S) as episodes:
            failures.append(episodes.run(EpisodeName(HARMLESS_SEED, number)))
    assert [failure for failure in failures if failure] == []


def test_episode_does_the_same_twice() -> None:
    name = next(
        name
        for name in (EpisodeName(5, number) for number in range(0, 1000, BATCH))
        if walk(name).target.device == "virtio-balloon"
    )
    traces = []
    for _ in range(2):
        with Episodes(Build.under_test(), PATIENCE_S) as episodes:
            episodes.run(name)
            traces.append(episodes.trace)
    assert len(traces[0]) > 5
    assert traces[0] == traces[1]


@pytest.mark.parametrize("transport", ["pci modern", "mmio 2", "ccw 2"])
def test_ring_format_toggled_ends_stock_qemu(transport: str) -> None:
    walked = _walk(Target("virtio-rng", transport), Step("begin", 3), Step("other-ring-format", 3))
    with Episodes(BASE, PATIENCE_S) as episodes:
        failure = episodes.carry_out(walked)
    assert failure is not None
    assert failure.signature == "assertion cache->is_write in address_space_cache_invalidate"


def test_endless_ring_hangs_stock_qemu() -> None:
    target = Target("virtio-net", "pci modern", packed=True)
    with Episodes(BASE, 2.0) as episodes:
        failure = episodes.carry_out(_walk(target, Step("begin", 21), Step("link", 21)))
    assert failure is not None
    assert failure.signature.startswith("hang in v")


def test_write_outside_of_what_was_given_is_seen(does: Callable[[Act], None]) -> None:
    def write(driver: HostileDriver, random: Random) -> None:
        driver.transport.qtest.writeb(driver.arena.take(16), 0)

    does(write)
    failure = attacked(Build.under_test(), RNG, "begin", "own")
    assert failure is not None
    assert (failure.signature, failure.said[:13]) == ("stray write of virtio-rng", "wrote 1 bytes")


def test_crash_is_seen_with_the_last_steps(does: Callable[[Act], None]) -> None:
    def crash(driver: HostileDriver, random: Random) -> None:
        os.kill(_qemu(), signal.SIGABRT)

    does(crash)
    failure = attacked(Build.under_test(), RNG, "begin", "own")
    assert failure is not None
    assert failure.signature == "signal 6"
    assert failure.trace[-1] == "[1] own"
    assert failure.target == "virtio-rng, pci modern, split"


def test_hang_is_told_from_an_end(does: Callable[[Act], None]) -> None:
    def stop(driver: HostileDriver, random: Random) -> None:
        os.kill(_qemu(), signal.SIGSTOP)

    does(stop)
    with Episodes(Build.under_test(), 0.5, debug=False) as episodes:
        failure = episodes.carry_out(_walk(RNG, Step("begin", 0), Step("own", 0)))
        assert failure is not None
        assert failure.signature.startswith("hang")
        # The next one has a QEMU of its own.
        assert episodes.carry_out(_walk(RNG, Step("begin", 0))) is None


def test_device_that_serves_no_more_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qap.measure.hostile.judge.SERVED_S", 0.1)
    monkeypatch.setattr("qap.virtio.driver.Driver.start", lambda driver: None)
    failure = attacked(Build.under_test(), RNG, "begin")
    assert failure is not None
    assert failure.signature.startswith("does not recover: waited N")


def test_sweep_groups_failures_and_shrinks_one_of_each() -> None:
    report = sweep.sweep(BASE, FAILING_SEED, 3 * BATCH, 2)
    assert not report.ok
    for row in report.results:
        assert row["count"] == len(row["episodes"]) > 0
        assert row["repro"].startswith(f"./qap soak hostile --episode {FAILING_SEED}:")
        assert row["targets"]


def test_verb_repeats_an_episode_and_says_what_it_did(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    build = Build.under_test()
    flags = ["--profile", build.profile, *(["--base"] if build.is_base else [])]
    argv = [str(Project.here().root / "qap"), "soak", "hostile", "--episode", "11:0", *flags]
    argv += ["--steps", "0", "--json", str(path)]
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "episode 11:0: " in said.stdout
    assert "[0] " in said.stdout
    assert json.loads(path.read_text())["results"] == []


def _qemu() -> int:
    """The QEMU among this process's children."""
    from qap.host.cpu_time import children

    named = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in children(os.getpid())}
    (qemu,) = [pid for pid, name in named.items() if name.startswith("qemu-system")]
    return qemu
