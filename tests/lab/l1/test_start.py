"""L1s that do not come up, and two at a time."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.paths import shown
from qap.lab import l1 as module
from qap.lab.l1 import CONSOLE, KEPT, L1, LOG, NotUp
from qap.lab.settings import LabSettings, settings
from qap.machine.guest.console import GuestPanic


@pytest.fixture
def kept() -> Path:
    """Where the logs of an L1 go that does not come up; empty."""
    folder = Build.under_test().project.results / KEPT
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; a short path, as sockets are there."""
    with tempfile.TemporaryDirectory(prefix="qap-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def running(folder: Path) -> list[str]:
    """Processes that have this folder on their command line."""
    argv = ["pgrep", "-f", str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()


def said(lab: L1) -> str:
    """Why an L1 does not come up, in a line."""
    with pytest.raises(NotUp) as raised, lab:
        pass
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("L1 did not come up: ")
    return str(raised.value)


def test_a_machine_that_qemu_refuses_is_told(kept: Path, scratch: Path) -> None:
    line = said(L1(Build.under_test(), devices=[{"driver": "no-such"}]))
    assert "'no-such' is not a valid device model name" in line
    assert line.endswith(f"; its logs are in {shown(kept)}")
    assert "no-such" in (kept / LOG).read_text()
    assert (list(scratch.iterdir()), running(scratch)) == ([], [])


def test_a_kernel_that_does_not_come_to_its_first_command_is_told(
    kept: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = settings().model_copy(update={"l1": settings().l1.model_copy(update={"up": 0.5})})

    def hastily() -> LabSettings:
        return hasty

    monkeypatch.setattr(module, "settings", hastily)
    assert ": waited 0.5 s for the guest to boot; its logs" in said(L1(Build.under_test()))
    assert {CONSOLE, LOG} <= {log.name for log in kept.iterdir()}
    assert (list(scratch.iterdir()), running(scratch)) == ([], [])


def test_a_kernel_that_panics_is_told_when_it_does_so_twice(kept: Path, scratch: Path) -> None:
    lab = L1(Build.under_test(), append="rdinit=/bin/false")
    assert "Kernel panic - not syncing" in said(lab)
    assert "Kernel panic - not syncing" in lab.restarted
    assert "Kernel panic" in (kept / CONSOLE).read_text()
    assert (list(scratch.iterdir()), running(scratch)) == ([], [])


def test_a_module_that_is_not_there_is_told(scratch: Path) -> None:
    assert "no_such_module" in said(L1(Build.under_test(), modules=("no_such_module",)))
    assert list(scratch.iterdir()) == []


def test_a_full_disk_is_told(scratch: Path) -> None:
    """A file system with room for a page, mounted where no one else sees it."""
    mounted = f'mount -t tmpfs -o size=4k full {scratch} && TMPDIR={scratch} exec "$@"'
    imports = "from qap.fork.build import Build; from qap.lab.l1 import L1"
    start = f"{imports}; L1(Build.under_test()).__enter__()"
    argv = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    argv += [sys.executable, "-c", start]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    if last.startswith("unshare:"):
        pytest.skip(last)
    assert "L1 did not come up: [Errno 28] No space left on device: " in last
    assert running(scratch) == []


def test_two_labs_do_not_disturb_each_other(l1: L1) -> None:
    """Nor does one whose kernel stops, which is told by who asks it next."""
    with L1(Build.under_test()) as other:
        labs = (l1, other)
        for lab in labs:
            lab.check(f"echo {lab.folder} >/run/mine && echo {lab.folder} >{lab.folder}/mine")
        with ThreadPoolExecutor() as threads:
            read = list(threads.map(lambda lab: lab.agent.read("/run/mine").strip(), labs))
        assert read == [str(lab.folder) for lab in labs]
        assert read == [(lab.folder / "mine").read_text().strip() for lab in labs]
        other.console.send("echo c >/proc/sysrq-trigger")
        other.agent.timeout = 5
        with pytest.raises(GuestPanic, match="sysrq triggered crash"):
            other.agent.wait_nodes(["/dev/never"], 60)
    assert running(other.folder) == []
    assert l1.agent.read("/run/mine").strip() == str(l1.folder)
