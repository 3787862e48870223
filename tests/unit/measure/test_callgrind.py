"""What callgrind writes is read as it means it, and refused where it means something else."""

import ctypes
import errno
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.measure.callgrind import MARK_FUNCTION, ran, total, valgrind_argv

# Shortened from what valgrind 3.19 wrote: a call's inclusive cost is no line of its own.
PROFILE = """\
# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 7282
cmd:  qemu-system-x86_64 -accel qtest
part: 3

desc: Timerange: Basic block 34754848 - 40985741
desc: Trigger: --dump-before=qmp_query_name

positions: line
events: Ir
summary: 7896195

ob=(16) qemu-system-x86_64
fl=(228) ???
fn=(2560) qemu_mutex_unlock_impl
0 8333
cfn=(2500) pthread_mutex_unlock
calls=641 368
0 16666

totals: 7896195
"""


def test_total_is_what_the_profile_says_at_its_end() -> None:
    assert total(PROFILE) == 7896195


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("", "events: Ir"),
        (PROFILE.replace("events: Ir", "events: Ir Dr Dw"), "events: Ir"),
        (PROFILE.replace("totals: 7896195\n", ""), "has 0 totals"),
        (PROFILE + "totals: 1\n", "has 2 totals"),
        (PROFILE.replace("totals: 7896195", "totals: 1 2"), "no number"),
    ],
    ids=["empty", "other events", "cut off", "two", "two numbers"],
)
def test_anything_else_is_refused(profile: str, said: str) -> None:
    with pytest.raises(QapError, match=said):
        total(profile)


@pytest.mark.parametrize("name", ["qemu_mutex_unlock_impl", "pthread_mutex_unlock"])
def test_function_that_ran_or_was_called_is_in_the_profile(name: str) -> None:
    assert ran(name, PROFILE)


@pytest.mark.parametrize("name", ["qemu_mutex", "mutex_unlock_impl", "qemu_mutex.unlock_impl"])
def test_function_with_another_name_is_not(name: str) -> None:
    assert not ran(name, PROFILE)


def test_command_leaves_nothing_in_tmp_and_dumps_at_the_mark(tmp_path: Path) -> None:
    argv = valgrind_argv(tmp_path / "callgrind", ["first", "second"])
    assert argv[:2] == ["env", f"TMPDIR={tmp_path}"]
    assert argv[3:5] == ["valgrind", "--tool=callgrind"]
    assert {"--vgdb=no", f"--dump-before={MARK_FUNCTION}"} <= set(argv)
    assert f"--callgrind-out-file={tmp_path}/callgrind" in argv
    assert argv[-2:] == ["--toggle-collect=first", "--toggle-collect=second"]


def test_qemu_finds_no_io_uring(tmp_path: Path) -> None:
    preloaded = valgrind_argv(tmp_path / "callgrind", [])[2].removeprefix("LD_PRELOAD=")
    assert ctypes.CDLL(preloaded).io_uring_queue_init(8, None, 0) == -errno.ENOSYS
