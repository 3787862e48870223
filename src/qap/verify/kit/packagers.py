"""What a packager or a reviewer does with an export, by the programs that they use for it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from qap.export.folder import export
from qap.export.sign_off import Person
from qap.fork import base
from qap.fork.git import Git
from qap.host.paths import Project

PATCHES = "debian/patches"
# What Debian's maintainers set, as the Debian New Maintainers' Guide says (“Modifying the source”).
REFRESH = ("-p", "ab", "--no-timestamps", "--no-index")
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def needs(*programs: str) -> None:
    """Skip the test if one of the programs is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: ./qap installs what configs/packages.txt has")


def run(*argv: str | Path, cwd: Path, env: Mapping[str, str] | None = None, status: int = 0) -> str:
    """Run a program; returns what it prints, errors with it."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == status, f"{argv[0]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def exported(project: Project, factory: pytest.TempPathFactory, sender: Person | None) -> Path:
    """The folder of an export of the whole queue; skips the test where QEMU's source is missing."""
    if base.info(project) is None:
        pytest.skip("QEMU's source is not here yet: run ./qap tree")
    folder = factory.mktemp("export") / "out"
    export(project, folder, sender)
    return folder


def with_b4(home: Path) -> dict[str, str]:
    """What a program finds that calls b4, which reads no settings of the user's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "XDG_DATA_HOME": str(home), "TERM": "dumb"}


def files(folder: Path) -> dict[str, bytes]:
    """Names and contents of all files in a folder and below."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def page_commands(project: Project, chapter: str) -> list[str]:
    """The blocks of commands in a chapter of docs/packager.md."""
    page = (project.root / "docs/packager.md").read_text()
    found = page.partition(f"\n### {chapter}\n")[2]
    return COMMANDS.findall(re.split(r"^##", found, maxsplit=1, flags=re.MULTILINE)[0])


def unpacked(stock: Path, folder: Path) -> Git:
    """A clone of the base without what quilt notes and without Debian's own patches."""
    Git(stock)("clone", "-q", "--shared", str(stock), str(folder))
    git = Git(folder)
    git.init()
    for name in (".pc", PATCHES):
        shutil.rmtree(folder / name, ignore_errors=True)
    git("add", "-A", "-f")
    git("commit", "-q", "--allow-empty", "-m", "without patches")
    return git


def contents(git: Git, commit: str = "HEAD", *without: str) -> str:
    """Names and hashes of the files of a commit, to compare with those of another."""
    lines = git("ls-tree", "-r", "--full-tree", commit).splitlines()
    left_out = (PATCHES, ".pc/", *without)
    return "\n".join(line for line in lines if not line.partition("\t")[2].startswith(left_out))


def quilt(tree: Path, *argv: str, status: int = 0) -> str:
    """quilt in a tree whose patches are in debian/patches, with no settings of the user's."""
    env = {"QUILT_PATCHES": PATCHES}
    return run("quilt", "--quiltrc", "-", *argv, cwd=tree, env=env, status=status)


def apply_series(git: Git, series: Path) -> str:
    """Apply a series with quilt and commit the result; returns quilt's words."""
    shutil.copytree(series, git.root / PATCHES)
    said = quilt(git.root, "push", "-a")
    git("add", "-A", "-f", ".", ":!.pc", f":!{PATCHES}")
    git("commit", "-q", "-m", "queue")
    return said


def refresh_series(tree: Path) -> None:
    """Refresh each patch, from the last to the first, and apply all of them again."""
    for _ in quilt(tree, "applied").splitlines():
        quilt(tree, "refresh", *REFRESH)
        quilt(tree, "pop")
    quilt(tree, "applied", status=1)
    quilt(tree, "push", "-a")


def gbp_round_trip(git: Git, series: Path) -> str:
    """Import a series as a patch queue and export it; returns what git has changed since."""
    shutil.copytree(series, git.root / PATCHES)
    git("add", "-A", "-f", PATCHES)
    git("commit", "-q", "-m", "patches")
    who = {"HOME": str(git.root), "EMAIL": "tester@qap.invalid", "NAME": "tester"}
    run("gbp", "pq", "import", cwd=git.root, env=who)
    run("gbp", "pq", "export", cwd=git.root, env=who)
    return git("status", "--porcelain")


def apply_mailboxes(git: Git, folder: Path) -> None:
    """git am of each mailbox, in the order of their names."""
    for mailbox in sorted(folder.glob("*.mbox")):
        git("am", "-q", str(mailbox))


def rpm_prepared(folder: Path, source: Path, scratch: Path, setup: str = "") -> Git:
    """Run a spec's %prep as rpmbuild does; returns its source, committed.

    Args:
        folder: the spec, and the sources beside it.
        source: Source0, a .tar.xz of one folder of its name, under the name that the spec has.
        scratch: is made; BUILD in it gets the source.
        setup: takes the place of the line with %autosetup.
    """
    sources = scratch / "SOURCES"
    shutil.copytree(folder, sources)
    shutil.copy(source, sources)
    spec = sources / "qemu-qap.spec"
    if setup:
        lines = spec.read_text().splitlines()
        (old,) = [line for line in lines if line.startswith("%autosetup")]
        spec.write_text("\n".join(setup if line == old else line for line in lines) + "\n")
    # The machine may have none of the distribution's packages.
    where = [f"-D_topdir {scratch}", f"-D_sourcedir {sources}"]
    run("rpmbuild", "-bp", "--nodeps", *where, spec, cwd=scratch)
    (prepared,) = (scratch / "BUILD").glob(f"**/{source.name.removesuffix('.tar.xz')}")
    git = Git(prepared)
    git.init()
    git("add", "-A", "-f", ".")
    git("commit", "-q", "--allow-empty", "-m", "prepared")
    return git
