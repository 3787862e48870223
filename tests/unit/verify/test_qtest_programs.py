"""The reports of upstream's test programs are read right, and the programs end with their owner."""

import os
import select
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qap.fork import series
from qap.fork.build import Build
from qap.host import paths
from qap.host.errors import MissingError
from qap.verify.qtest_programs import (
    MISSING,
    QOS,
    TESTS,
    Difference,
    QtestStuck,
    UpstreamTest,
    added,
    compare,
    run_qtest,
)
from qap.verify.runners import FAIL, PASS, SKIP, TestResult

from ..project import PROFILE_TOML, Project

# Long enough for slow machines; only a failing test waits so long.
PATIENCE_S = 10.0
TOOLS = ("qemu-img", "qemu-storage-daemon")
REAL_TEST = (
    "/x86_64/pc/i440FX-pcihost/pci-bus-pc/pci-bus/virtio-rng-pci/pci-device/pci-device-tests/nop"
)
Script = Callable[[str], Build]


@pytest.fixture
def script(project: Project) -> Script:
    """Make a build whose qos-test is a shell script."""
    project.profile("small", PROFILE_TOML.replace('["qemu-img"]', str(list(TOOLS))))
    build = Build("small")
    for path in build.tools().values():
        (build.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (build.folder / path).touch()

    def made(text: str) -> Build:
        program = build.folder / QOS.ninja_target
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return build

    return made


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A FIFO for the programs under test to hold open for writing."""
    path = tmp_path / "held"
    os.mkfifo(path)
    return path


def let_go(reader: int) -> bool:
    """Whether every process that held the other end of a FIFO soon ends."""
    ready, _, _ = select.select([reader], [], [], PATIENCE_S)
    return bool(ready) and os.read(reader, 100) == b""


def test_each_test_has_its_outcome_and_its_reason(script: Script) -> None:
    build = script(
        "echo 1..4; echo '# Start of x86_64 tests'\n"
        "echo ok 1 /x/rng/nop\n"
        "echo 'not ok 2 /x/blk/config - ERROR:../../blk.c:12:config: assertion failed (1 == 2)'\n"
        "echo 'ok 3 /x/9p/deep # SKIP This is a slow test'\n"
        "echo 'ok 4 /x/net/hot-plug'; exit 1"
    )
    heard: list[TestResult] = []
    run = run_qtest(build, QOS, on_result=heard.append)
    assert {name: result.status for name, result in run.results.items()} == {
        "/x/rng/nop": PASS,
        "/x/blk/config": FAIL,
        "/x/9p/deep": SKIP,
        "/x/net/hot-plug": PASS,
    }
    assert run.results["/x/9p/deep"].message == "This is a slow test"
    assert heard == list(run.results.values())
    assert (run.planned, run.status, run.build) == (4, 1, "fork")
    assert run.problems == [
        "qos-test (x86_64) on fork: /x/blk/config failed: "
        "ERROR:../../blk.c:12:config: assertion failed (1 == 2)"
    ]


def test_program_that_is_well_has_no_problems(script: Script) -> None:
    run = run_qtest(script("echo TAP version 13; echo ok 1 - /x/nop; echo 1..1"), QOS)
    assert (run.planned, list(run.results), run.problems) == (1, ["/x/nop"], [])


def test_tests_that_a_crash_took_along_are_counted(script: Script) -> None:
    build = script("echo 1..3; echo ok 1 /x/a; echo 'assertion failed' >&2; kill -ABRT $$")
    run = run_qtest(build, QOS)
    assert run.status == -6
    assert run.problems == [
        "qos-test (x86_64) on fork: 2 of 3 tests have no result",
        "qos-test (x86_64) on fork: ended with status -6",
    ]
    assert run.said == "assertion failed"


def test_build_without_any_test_is_a_problem(script: Script) -> None:
    run = run_qtest(script("echo 1..0"), QOS)
    assert run.problems == ["qos-test (x86_64) on fork: there is no test that this build could run"]


def test_complaint_of_an_emulator_does_not_hide_a_result(script: Script) -> None:
    build = script("echo 1..1; printf 'qemu: warn' >&2; echo ok 1 /x/a; echo ing >&2")
    run = run_qtest(build, QOS)
    assert run.results["/x/a"].status == PASS
    assert run.said == "qemu: warning"


def test_program_gets_the_emulators_and_its_options(script: Script) -> None:
    build = script(
        'echo 1..0; echo "$@" >&2; echo "$QTEST_QEMU_BINARY" >&2\n'
        'echo "$QTEST_QEMU_IMG $QTEST_QEMU_STORAGE_DAEMON_BINARY" >&2'
    )
    run = run_qtest(build, QOS, args=["-m", "slow"])
    assert run.said.splitlines() == [
        "--tap -k -m slow",
        str(build.path("qemu-system-x86_64")),
        " ".join(str(build.path(tool)) for tool in TOOLS),
    ]


def test_program_leaves_nothing_behind(script: Script) -> None:
    run = run_qtest(script('echo 1..0; touch here "$TMPDIR/there"; pwd >&2; ls >&2'), QOS)
    folder, *left = run.said.splitlines()
    assert {"here", "there"} <= set(left)
    assert Path(folder).parent == Path(tempfile.gettempdir())
    assert not Path(folder).exists()


def test_cpu_time_is_that_of_the_program_and_its_emulators(script: Script) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    emulator = shlex.join([sys.executable, "-S", "-c", burn])
    run = run_qtest(script(f"echo 1..0; {emulator}"), QOS)
    assert 0.18 <= run.cpu < 0.4
    assert run.wall >= run.cpu


def test_stuck_program_is_ended(script: Script, held: Path) -> None:
    build = script(f"exec 3>{held}; echo 1..2; echo ok 1 /x/a; echo hangs >&2; sleep 60 & wait")
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(QtestStuck, match=r"stuck after /x/a: not done in 0\.5 s") as stuck:
        run_qtest(build, UpstreamTest("qos-test", "x86_64", timeout=0.5))
    assert stuck.value.detail == "hangs"
    assert let_go(reader)
    os.close(reader)


def test_interrupt_ends_the_program(script: Script, held: Path) -> None:
    build = script(f"exec 3>{held}; echo 1..2; echo ok 1 /x/a; sleep 60 & wait")
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)

    def interrupt(_: TestResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_qtest(build, QOS, on_result=interrupt)
    assert let_go(reader)
    os.close(reader)


def test_emulator_that_outlives_its_program_is_ended(script: Script, held: Path) -> None:
    build = script(f"exec 3>{held}; sleep 60 & echo 1..1; echo ok 1 /x/a")
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    run = run_qtest(build, UpstreamTest("qos-test", "x86_64", timeout=PATIENCE_S))
    assert run.problems == []
    assert let_go(reader)
    os.close(reader)


def test_half_a_line_is_no_result(script: Script) -> None:
    run = run_qtest(script("echo 1..2; echo ok 1 /x/a; printf 'ok 2 /x/hot'; kill -ABRT $$"), QOS)
    assert list(run.results) == ["/x/a"]


def test_long_line_hides_no_result(script: Script) -> None:
    build = script("head -c 200000 /dev/zero | tr '\\0' '#'; printf '\\n1..1\\nok 1 /x/a\\n'")
    assert list(run_qtest(build, QOS).results) == ["/x/a"]


def test_program_that_is_not_built_is_missed(script: Script) -> None:
    with pytest.raises(MissingError, match=r"migration-test .* is not built"):
        run_qtest(script(""), UpstreamTest("migration-test", "x86_64"))


def test_comparison_names_what_the_fork_changes(script: Script) -> None:
    base = run_qtest(
        script("echo 1..5; for i in a b c d; do echo ok 1 /x/$i; done; echo not ok 5 /x/e"), QOS
    )
    fork = run_qtest(
        script(
            "echo 1..5; echo ok 1 /x/a; echo not ok 2 /x/b; echo 'ok 3 /x/c # SKIP no KVM'\n"
            "echo ok 5 /x/e; echo ok 6 /x/f"
        ),
        QOS,
    )
    assert compare(base, base) == []
    changed = compare(fork, base)
    assert changed == [
        Difference("/x/b", FAIL, PASS),
        Difference("/x/c", SKIP, PASS),
        Difference("/x/d", MISSING, PASS),
        Difference("/x/e", PASS, FAIL),
        Difference("/x/f", PASS, MISSING),
    ]
    worse = [difference.test for difference in changed if difference.worse]
    assert worse == ["/x/b", "/x/c", "/x/d"]


def test_every_program_is_one_that_upstream_builds_for_its_target() -> None:
    source = Build("lab").tree / "tests/qtest/meson.build"
    if not source.exists():
        pytest.skip("QEMU's source is not here yet: run ./qap tree")
    text = source.read_text()
    for test in TESTS:
        assert f"'{test.program}'" in text
        assert test.target in ("x86_64", "s390x")


def test_programs_of_the_queue_are_those_that_patches_add() -> None:
    patches = series.patches(paths.Project.here())
    programs = added(patches)
    assert "virtio-access-platform-test" in {program.program for program in programs}
    assert all(program.added for program in programs)
    assert not {program.program for program in programs} & {test.program for test in TESTS}


def test_real_program_drives_the_real_emulator() -> None:
    build = Build.under_test()
    if not (build.folder / QOS.ninja_target).exists():
        pytest.skip("upstream's qos-test is not built here")
    run = run_qtest(build, QOS, args=["-p", REAL_TEST])
    assert {name: result.status for name, result in run.results.items()} == {REAL_TEST: PASS}
    assert run.problems == []
    # Starting an emulator takes CPU time.
    assert run.cpu > 0.005
