"""debian/ as Debian's own tools take it, on a source package of a few files."""

import json
import shutil
from pathlib import Path

import pytest

from qap.export.folder import export
from qap.export.sign_off import Person
from qap.fork import base, series
from qap.fork.git import Git
from qap.host.paths import Project as Here
from qap.verify.kit import packagers

from ..project import Project, numbered, write

VERSION = "1:10.0.13+ds-0+deb13u1"
CHANGELOG = f"""\
qemu ({VERSION}) trixie; urgency=medium

  * New upstream release.

 -- Nobody <nobody@qap.invalid>  Thu, 01 Jan 2026 00:00:00 +0000
"""
CONTROL = """\
Source: qemu
Maintainer: Nobody <nobody@qap.invalid>

Package: qemu
Architecture: any
Description: nothing
"""
OWN = """\
--- a/hw/ccw.c
+++ b/hw/ccw.c
@@ -1,2 +1,2 @@
-ccw line 1
+ccw line 1, as Debian has it
 ccw line 2
"""


@pytest.fixture
def package(queue: Project, tmp_path: Path) -> Path:
    """The source package that qemu/base is made from, unpacked; a .dsc is beside it."""
    packagers.needs("dpkg-source", "dpkg-parsechangelog")
    source = tmp_path / "package" / "qemu-10.0.13+ds"
    shutil.copytree(queue.source, source)
    run = packagers.run
    run("tar", "cJf", "../qemu_10.0.13+ds.orig.tar.xz", "-C", "..", source.name, cwd=source)
    for name, text in {
        "changelog": CHANGELOG,
        "control": CONTROL,
        "rules": "#!/usr/bin/make -f\n",
        "source/format": "3.0 (quilt)\n",
        "patches/series": "own.patch\n",
        "patches/own.patch": OWN,
    }.items():
        write(source / "debian" / name, text)
    run("dpkg-source", "-b", source.name, cwd=source.parent)
    shutil.rmtree(source)
    run("dpkg-source", "-x", "qemu_10.0.13+ds-0+deb13u1.dsc", cwd=source.parent)
    base.ensure(queue, str(source))
    record = queue.base_tree / ".git" / "qap-base.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "package_version": VERSION}))
    return source


def version(source: Path) -> str:
    return packagers.run("dpkg-parsechangelog", "-S", "Version", cwd=source).strip()


def test_source_package_with_the_queue_is_built_and_unpacks_to_the_fork(
    queue: Project, package: Path, tmp_path: Path
) -> None:
    export(queue, tmp_path / "out", None)
    said = packagers.run(tmp_path / "out/debian/add-queue", cwd=package)
    assert said == f"add-queue: 4 patches, {VERSION}+qap1\n"
    packagers.run("dpkg-source", "-b", package.name, cwd=package.parent)
    built = package.parent / "qemu_10.0.13+ds-0+deb13u1+qap1.dsc"
    packagers.run("dpkg-source", "-x", built.name, "again", cwd=package.parent)
    git = Git(package.parent / "again")
    git.init()
    git("add", "-A", "-f", ".")
    git("commit", "-q", "-m", "again")
    series.ensure(queue)
    left_out = ("debian/", "roms/")
    assert packagers.contents(git, "HEAD", *left_out) == packagers.contents(
        queue.git, "HEAD", *left_out
    )
    assert (git.root / "hw/ccw.c").read_text().startswith("ccw line 1, as Debian has it\n")
    assert numbered("bus") != (git.root / "hw/bus.c").read_text()


def test_changelog_entry_names_sender_date_and_topics(
    queue: Project, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    export(queue, tmp_path / "out", Person("Me", "me@mine.org"))
    packagers.run(tmp_path / "out/debian/add-queue", cwd=package)
    fields = packagers.run("dpkg-parsechangelog", cwd=package).splitlines()
    assert "Maintainer: Me <me@mine.org>" in fields
    assert "Date: Sun, 09 Sep 2001 01:46:40 +0000" in fields
    assert "Distribution: UNRELEASED" in fields
    assert "     - fence (2 patches): fence: the letter about it" in fields


def test_queue_is_added_once(queue: Project, package: Path, tmp_path: Path) -> None:
    export(queue, tmp_path / "out", None)
    packagers.run(tmp_path / "out/debian/add-queue", cwd=package)
    said = packagers.run(tmp_path / "out/debian/add-queue", cwd=package, status=1)
    assert said == (
        f"add-queue: the queue was exported for {VERSION}, and this is {VERSION}+qap1: "
        "export it on that base\n"
    )
    assert version(package) == f"{VERSION}+qap1"


def test_packagers_page_has_the_commands_that_are_run_on_a_real_package() -> None:
    """tests/packages takes them from there, by their order."""
    blocks = packagers.page_commands(Here.here(), "Debian")
    words = ("add-queue", "build-dep", "nocheck dpkg-build", "system-packages=x86", "install ../")
    assert [word in block for word, block in zip(words, blocks, strict=True)] == [True] * 5


def test_another_folder_is_refused(queue: Project, package: Path, tmp_path: Path) -> None:
    export(queue, tmp_path / "out", None)
    said = packagers.run(tmp_path / "out/debian/add-queue", cwd=tmp_path, status=1)
    assert said.startswith("add-queue: there is no debian/patches/series: run this in")
    assert said.count("\n") == 1
