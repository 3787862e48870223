"""rpm/ as rpmspec and rpmbuild take it."""

from pathlib import Path

import pytest

from qap.fork import series
from qap.verify.kit import packagers

from ..project import SOURCE, Project

TOP = "qemu-10.0.99"


@pytest.fixture
def tarball(queue: Project, tmp_path: Path) -> Path:
    path = tmp_path / f"{TOP}.tar.xz"
    rename = f"s,^,{TOP}/,"
    packagers.run("tar", "cJf", path, "--transform", rename, *SOURCE, cwd=queue.source)
    return path


def test_rpmspec_has_every_patch_in_the_order_of_the_queue(exported: Path) -> None:
    packagers.needs("rpmspec")
    where = f"-D_sourcedir {exported}/rpm"
    said = packagers.run("rpmspec", "-P", where, "rpm/qemu-qap.spec", cwd=exported)
    names = (exported / "rpm/qap.patchlist").read_text().split()
    assert said[said.index("%patchlist") :].split()[1:5] == names
    quilt = (exported / "quilt/series").read_text().split()
    assert names == [f"qap-{name.replace('/', '-')}" for name in quilt]
    query = ("--srpm", "--qf", "[%{PATCH}\\n]", "rpm/qemu-qap.spec")
    listed = packagers.run("rpmspec", "-q", where, *query, cwd=exported)
    assert sorted(listed.split()) == sorted(names)


@pytest.mark.parametrize("setup", ["", f"%autosetup -n {TOP} -p1"])
def test_prep_gives_the_fork(
    queue: Project, exported: Path, tarball: Path, tmp_path: Path, setup: str
) -> None:
    packagers.needs("rpmbuild")
    git = packagers.rpm_prepared(exported / "rpm", tarball, tmp_path / "rpm", setup)
    series.ensure(queue)
    assert packagers.contents(git, "HEAD", "roms/") == packagers.contents(queue.git)
