"""The ./qap script: it starts fast if all is there, and tells what is missing."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from qap.host.paths import Project
from qap.host.wait import poll_until

from ..programs import Programs

# The only programs that a start may need, in addition to the shell.
NEEDED = ("cat", "cksum", "dirname")
PACKAGES = """\
# comment: with a colon
# purpose: packages

python: python3 python3-venv
building QEMU: gcc libglib2.0-dev
"""
INSTALLED = ["python3", "python3-venv", "gcc", "libglib2.0-dev"]


@dataclass(frozen=True)
class Wrapper:
    """A copy of ./qap whose PATH has only the given programs."""

    root: Path
    programs: Programs

    def __call__(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.root / "qap"), *argv],
            env={"PATH": str(self.programs.folder), "TMPDIR": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self, *names: str, provides: str = "") -> None:
        """Fake that dpkg has these packages, the first of which may provide more names."""
        lines = [f"installed {name} {provides if not at else ''}" for at, name in enumerate(names)]
        lines += ["not-installed gone gcc"]
        self.programs.add("dpkg-query", f"cat <<'END'\n{os.linesep.join(lines)}\nEND")

    def calls(self) -> list[str]:
        """The calls, without those that only look something up."""
        looks = ("dpkg-query ", "flock ", "id ", "python3 -c ", "python -c ")
        return [call for call in self.programs.calls() if not call.startswith(looks)]


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    """./qap for root on Debian, with every package installed and nothing set up yet."""
    root = tmp_path / "a project"
    for name in ("qap", "pyproject.toml", "requirements.lock"):
        root.mkdir(exist_ok=True)
        shutil.copy(Project.here().root / name, root / name)
    (root / "configs").mkdir()
    (root / "configs/packages.txt").write_text(PACKAGES)
    programs = Programs(tmp_path / "programs")
    programs.add("python3")
    programs.real(*NEEDED, "sed", "grep", "mktemp", "rm", "tail", "env")
    programs.add("flock", f'exec {shutil.which("flock")} "$@"')
    programs.add("apt-get")
    programs.add("id", "echo 0")
    # The virtual environment exists already: the fake python3 can't make it.
    Programs(root / ".venv/bin").add("python")
    (root / ".venv/bin/python").write_text(
        f'#!/bin/sh\necho "python $*" >>"{programs.record}"\n[ "$4" != fails ] || exit 7\n'
    )
    made = Wrapper(root, programs)
    made.installed(*INSTALLED)
    return made


def ready(wrapper: Wrapper) -> None:
    assert wrapper().returncode == 0
    wrapper.calls()


def test_first_start_installs_the_python_packages(wrapper: Wrapper) -> None:
    done = wrapper("doctor")
    assert done.returncode == 0, done.stderr
    venv, pip, qap = wrapper.calls()
    assert venv == f"python3 -m venv --clear {wrapper.root}/.venv"
    assert pip.startswith("python -m pip install ")
    assert f"--constraint {wrapper.root}/requirements.lock" in pip
    assert qap == "python -m qap doctor"


def test_two_first_starts_at_once_install_once(wrapper: Wrapper) -> None:
    """The second waits, and finds all done."""
    python, gate = wrapper.root / ".venv/bin/python", wrapper.root / "gate"
    os.mkfifo(gate)
    python.write_text(f'{python.read_text()}[ "$2" != pip ] || read -r go <"{gate}"\n')
    argv, env = [str(wrapper.root / "qap"), "doctor"], {"PATH": str(wrapper.programs.folder)}
    with (
        subprocess.Popen(argv, env=env) as first,
        gate.open("w") as go,
        subprocess.Popen(argv, env=env) as second,
    ):
        poll_until(
            lambda: True if wrapper.programs.record.read_text().count("flock ") == 2 else None,
            30,
            lambda: "the second start to wait for the first",
        )
        go.write("go\n")
        go.close()
    assert (first.returncode, second.returncode) == (0, 0)
    calls = [call.split()[2] for call in wrapper.calls() if call.startswith("python -m")]
    assert calls == ["pip", "qap", "qap"]


def test_next_start_runs_nothing_else(wrapper: Wrapper) -> None:
    ready(wrapper)
    for path in wrapper.programs.folder.iterdir():
        if path.is_symlink() and path.name not in NEEDED:
            path.unlink()
    done = wrapper("run", "one two", "--json", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # Any other fake program would have left a line.
    assert wrapper.programs.calls() == ["python -m qap run one two --json x"]


def test_qap_takes_the_wrapper_s_place(wrapper: Wrapper) -> None:
    """Signals for ./qap reach qap, because there is no shell in between."""
    ready(wrapper)
    (wrapper.root / ".venv/bin/python").write_text("#!/bin/sh\necho $$\n")
    argv, env = [str(wrapper.root / "qap")], {"PATH": str(wrapper.programs.folder)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as started:
        said, _ = started.communicate()
    assert int(said) == started.pid


def test_exit_code_is_qap_s(wrapper: Wrapper) -> None:
    ready(wrapper)
    assert wrapper("run", "fails").returncode == 7


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock", "configs/packages.txt"])
def test_changed_requirements_are_installed_anew(wrapper: Wrapper, name: str) -> None:
    ready(wrapper)
    with (wrapper.root / name).open("a") as out:
        out.write("# more\n")
    wrapper("doctor")
    assert len(wrapper.calls()) == 2
    wrapper("doctor")
    assert len(wrapper.calls()) == 1


def test_moved_project_is_installed_anew(wrapper: Wrapper) -> None:
    ready(wrapper)
    moved = Wrapper(wrapper.root.rename(wrapper.root.with_name("elsewhere")), wrapper.programs)
    moved("doctor")
    venv, pip, _ = moved.calls()
    assert venv == f"python3 -m venv --clear {moved.root}/.venv"
    assert f"--editable {moved.root}" in pip


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("0", "apt-get update && apt-get install --no-install-recommends gcc"),
        ("1000", "sudo apt-get update && sudo apt-get install --no-install-recommends gcc"),
    ],
)
def test_no_install_prints_the_command_and_ends(wrapper: Wrapper, user: str, command: str) -> None:
    wrapper.programs.add("id", f"echo {user}")
    wrapper.installed("python3", "python3-venv", "libglib2.0-dev")
    done = wrapper("--no-install", "run")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (3, command, "")
    assert wrapper.calls() == []


def test_no_install_looks_even_when_set_up(wrapper: Wrapper) -> None:
    ready(wrapper)
    assert wrapper("--no-install", "doctor").returncode == 0
    assert wrapper.calls() == ["python -m qap doctor"]
    wrapper.installed("python3", "python3-venv", "libglib2.0-dev")
    assert wrapper("--no-install", "doctor").returncode == 3


def test_missing_packages_are_installed(wrapper: Wrapper) -> None:
    wrapper.installed("python3", "libglib2.0-dev")
    assert wrapper("doctor").returncode == 0
    update, install, *_ = wrapper.calls()
    assert update == "apt-get update -q"
    options = "-q -y -o DPkg::Lock::Timeout=300 --no-install-recommends"
    assert install == f"apt-get install {options} python3-venv gcc"


def test_lists_that_are_there_will_do(wrapper: Wrapper) -> None:
    wrapper.installed("python3", "python3-venv", "libglib2.0-dev")
    wrapper.programs.add("apt-get", "[ $1 = install ]")
    done = wrapper("doctor")
    assert (done.returncode, wrapper.calls()[-1]) == (0, "python -m qap doctor")
    assert "qap: apt-get update failed, going on\n" in done.stderr


def test_package_that_provides_the_name_will_do(wrapper: Wrapper) -> None:
    wrapper.installed(
        "libglib2.0t64-dev",
        "python3",
        "python3-venv",
        "gcc",
        provides="libglib2.0-dev (= 2.84), libgio-dev",
    )
    assert wrapper("--no-install", "doctor").returncode == 0


def test_longer_name_is_another_package(wrapper: Wrapper) -> None:
    wrapper.installed("gcc-14", "python3", "python3-venv", "libglib2.0-dev")
    done = wrapper("--no-install", "doctor")
    assert (done.returncode, done.stdout.split()[-1]) == (3, "gcc")


def test_apt_that_fails_is_quoted(wrapper: Wrapper) -> None:
    wrapper.installed("python3", "python3-venv", "libglib2.0-dev")
    wrapper.programs.add(
        "apt-get", "echo Reading; echo 'E: Unable to locate package gcc'; exit 100"
    )
    done = wrapper("doctor")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-2:] == [
        "E: Unable to locate package gcc",
        "qap: could not install: gcc ",
    ]
    assert not (wrapper.root / ".venv/.qap-ready").exists()


def test_no_root_and_no_sudo_says_what_to_run(wrapper: Wrapper) -> None:
    wrapper.programs.add("id", "echo 1000")
    wrapper.installed("python3", "python3-venv", "libglib2.0-dev")
    done = wrapper("doctor")
    assert done.returncode == 3
    assert "as root run: apt-get install --no-install-recommends gcc" in done.stderr
    assert wrapper.calls() == []


@pytest.mark.parametrize("flags", [[], ["--no-install"]])
def test_other_distributions_are_told_the_packages_by_purpose(
    wrapper: Wrapper, flags: list[str]
) -> None:
    (wrapper.programs.folder / "apt-get").unlink()
    done = wrapper(*flags, "doctor")
    assert done.stderr.splitlines()[:3] == [
        "qap: this is not Debian or Ubuntu: install by hand, by purpose (Debian's names):",
        "  python: python3 python3-venv",
        "  building QEMU: gcc libglib2.0-dev",
    ]
    assert done.returncode == (3 if flags else 0)


def test_old_python_is_refused(wrapper: Wrapper) -> None:
    wrapper.programs.add("python3", "exit 1")
    done = wrapper("doctor")
    assert (done.returncode, wrapper.calls()) == (3, [])
    assert "no Python 3.11 or later with venv: install python3-venv" in done.stderr


def test_every_package_of_this_repository_has_a_purpose() -> None:
    lines = (Project.here().root / "configs/packages.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed
    for line in listed:
        purpose, _, names = line.partition(": ")
        assert purpose and names.split(), line
