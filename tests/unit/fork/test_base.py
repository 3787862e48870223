"""The upstream source: where it may come from, and what is refused."""

import tarfile
from pathlib import Path

import pytest

from qap.fork import base
from qap.fork.git import Git
from qap.host.debian.suite import Suite
from qap.host.debian.sums import write_sums
from qap.host.errors import MissingError, QapError, UsageError

from ..programs import Programs
from ..project import Project, write


def tarball(project: Project, inside: str) -> Path:
    """The project's source as NAME.tar.gz, in a folder of that name ("." for none)."""
    path = project.root / "qemu-10.0.99.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(project.source, inside)
    return path


def debian(project: Project, monkeypatch: pytest.MonkeyPatch, version: str) -> list[str]:
    """Fake a source package of this version in Debian; returns the list of fetched suites."""
    fetched: list[str] = []

    def bring(suite: Suite, packages: list[str]) -> None:
        assert (suite.part, packages) == ("source", ["qemu"])
        fetched.append(suite.name)
        dsc = suite._files / "qemu" / f"qemu_{version.partition(':')[2]}.dsc"
        write(dsc, f"Format: 3.0 (quilt)\nSource: qemu\nVersion: {version}\n")
        write_sums(dsc.parent)

    monkeypatch.setattr(Suite, "_bring", bring)
    return fetched


def test_base_comes_from_a_folder(project: Project) -> None:
    write(project.source / ".git/HEAD", "not ours\n")
    upstream = base.ensure(project, str(project.source))
    assert (upstream.version, upstream.package_version) == ("10.0.99", "")
    assert upstream.source == str(project.source)
    assert (project.base_tree / "hw/bus.c").read_text() == (project.source / "hw/bus.c").read_text()
    assert Git(project.base_tree)("rev-list", "--count", "HEAD").strip() == "1"
    assert upstream.commit == Git(project.base_tree).head()
    assert base.info(project) == upstream == base.require(project)


def test_base_comes_from_a_tarball(project: Project) -> None:
    from_folder = project.bring()
    from_tarball = base.ensure(project, str(tarball(project, "qemu-10.0.99")))
    assert from_tarball.source.endswith(".tar.gz")
    assert (from_tarball.version, from_tarball.commit) == (from_folder.version, from_folder.commit)


def test_what_the_configuration_leaves_out_is_left_out(project: Project) -> None:
    project.bring()
    assert (project.source / "roms").exists()
    assert not (project.base_tree / "roms").exists()


def test_base_that_is_there_is_kept(project: Project) -> None:
    upstream = project.bring()
    (project.source / "VERSION").write_text("10.0.100\n")
    assert base.ensure(project) == upstream
    assert project.bring().version == "10.0.100"


def test_builds_outlive_their_base(project: Project) -> None:
    project.bring()
    write(project.base_tree / "build/lab/qemu-img", "built")
    write(project.source / "hw/bus.c", "changed\n")
    project.bring()
    assert (project.base_tree / "build/lab/qemu-img").read_text() == "built"
    assert (project.base_tree / "hw/bus.c").read_text() == "changed\n"


@pytest.mark.parametrize("missing", ["VERSION", "configure"])
def test_folder_that_is_not_qemu_is_refused(project: Project, missing: str) -> None:
    upstream = project.bring()
    (project.source / missing).unlink()
    with pytest.raises(UsageError, match=f"{project.source} is not a QEMU source tree"):
        project.bring()
    assert base.info(project) == upstream
    assert not list(project.qemu.glob(".unpack-*"))


def test_path_that_is_not_there_is_named(project: Project) -> None:
    with pytest.raises(UsageError, match=r"--source .*/nowhere: there is no such file"):
        base.ensure(project, str(project.root / "nowhere"))


def test_file_that_is_no_tarball_is_named(project: Project) -> None:
    with pytest.raises(UsageError, match=r"--source .*/10\.0\.toml: not a tarball"):
        base.ensure(project, str(project.base_toml))


def test_nothing_there_says_what_to_run(project: Project) -> None:
    assert base.info(project) is None
    with pytest.raises(MissingError, match=r"\./qap tree"):
        base.require(project)


def test_base_comes_from_debian(
    project: Project, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = debian(project, monkeypatch, "1:10.0.13+ds-0+deb13u1")
    programs.add("dpkg-source", f'for last; do :; done\ncp -r "{project.source}" "$last"')
    upstream = base.ensure(project)
    assert fetched == ["trixie"]
    assert (upstream.source, upstream.package_version) == (
        "Debian trixie",
        "1:10.0.13+ds-0+deb13u1",
    )
    (call,) = programs.calls()
    assert "--require-strong-checksums" in call
    assert base.ensure(project, "debian") == upstream
    assert programs.calls() == []


def test_base_is_brought_again_when_less_is_left_out(
    project: Project, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a build would fail, as folders are missing."""
    debian(project, monkeypatch, "1:10.0.13+ds-0+deb13u1")
    programs.add("dpkg-source", f'for last; do :; done\ncp -r "{project.source}" "$last"')
    base.ensure(project)
    assert not (project.base_tree / "roms").exists()
    said = project.base_toml
    said.write_text(said.read_text().replace('leave_out = ["roms"]', "leave_out = []"))
    base.ensure(project)
    assert (project.base_tree / "roms").exists()


def test_debian_replaces_a_folder_only_when_asked(
    project: Project, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian(project, monkeypatch, "1:10.0.13+ds-0+deb13u1")
    programs.add("dpkg-source", f'for last; do :; done\ncp -r "{project.source}" "$last"')
    ours = project.bring()
    assert base.ensure(project) == ours
    assert base.ensure(project, "debian").source == "Debian trixie"


@pytest.mark.parametrize("version", ["1:10.1.0+ds-1", "1:11.0.0+ds-1", "1:10.00.1-1"])
def test_other_series_in_debian_is_refused(
    project: Project, programs: Programs, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    debian(project, monkeypatch, version)
    programs.add("dpkg-source")
    with pytest.raises(QapError, match=r"trixie now has qemu .* for 10\.0: .*--source") as refused:
        base.ensure(project)
    assert version in str(refused.value)
    assert programs.calls() == []
    assert base.info(project) is None


def test_dpkg_source_that_fails_is_quoted(
    project: Project, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian(project, monkeypatch, "1:10.0.13+ds-0+deb13u1")
    programs.add("dpkg-source", "echo 'dpkg-source: error: bad checksum' >&2; exit 25")
    with pytest.raises(QapError, match=r"could not unpack qemu_.*\.dsc") as failed:
        base.ensure(project)
    assert failed.value.detail == "dpkg-source: error: bad checksum"


def test_documents_about_building_are_no_builds(project: Project) -> None:
    write(project.source / "docs/devel/build-system.rst", "read me\n")
    project.bring()
    assert (project.base_tree / "docs/devel/build-system.rst").exists()


def test_tarball_that_ends_early_is_refused(project: Project) -> None:
    path = tarball(project, "qemu-10.0.99")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="not a tarball"):
        base.ensure(project, str(path))


def test_tarball_without_a_folder_is_refused(project: Project) -> None:
    path = project.root / "empty.tar"
    with tarfile.open(path, "w"):
        pass
    with pytest.raises(UsageError, match=r"empty\.tar"):
        base.ensure(project, str(path))


def test_history_in_a_tarball_is_left_out(project: Project) -> None:
    git = Git(project.source)
    git.init()
    git("add", "-A")
    git("commit", "-q", "-m", "somebody's")
    path = tarball(project, "qemu")
    base.ensure(project, str(path))
    assert Git(project.base_tree)("rev-list", "--count", "HEAD").strip() == "1"
