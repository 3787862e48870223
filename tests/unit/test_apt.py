"""Packages through a private apt: cached, checked, and out of the system's way."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qap import apt
from qap.apt import SUMS, Archive
from qap.errors import MissingError, QapError

from .programs import Programs
from .project import Project

MIRROR = "http://mirror.example/debian/"
ROWS = f"""\
http://security.example/debian-security/ Debian Debian-Security trixie-security
http://other.example/ Docker Docker CE trixie
http://other.example/ Someone Debian trixie
http://updates.example/debian/ Debian Debian trixie-updates
{MIRROR} Debian Debian trixie
http://later.example/debian/ Debian Debian bookworm
"""
APT_GET = """\
echo "$APT_CONFIG" >>"{record}.config"
case $1 in
indextargets) cat <<'END'
{rows}END
;;
update) {update};;
download) {download};;
source) echo dsc >qemu_1.dsc; echo orig >qemu_1.orig.tar.xz;;
esac
"""


@pytest.fixture
def archive(project: Project, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Debian trixie with a package "tiny" of amd64, through an apt-get that only pretends."""
    keyring = project.root / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(apt, "KEYRING", keyring)
    monkeypatch.delenv("APT_CONFIG", raising=False)
    apt_get(programs)
    return Archive("trixie")


def apt_get(
    programs: Programs, update: str = ":", download: str = "echo deb >tiny_1_amd64.deb"
) -> None:
    script = APT_GET.format(record=programs.record, rows=ROWS, update=update, download=download)
    programs.add("apt-get", script)


def verbs(programs: Programs) -> list[str]:
    return [call.split()[1] for call in programs.calls() if "indextargets" not in call]


def test_mirror_is_the_one_of_debian_s_own_archive(archive: Archive) -> None:
    assert apt.mirror() == MIRROR


def test_machine_without_a_debian_archive_is_told_so(programs: Programs) -> None:
    programs.add("apt-get", "echo 'http://ubuntu.example/ Ubuntu Ubuntu noble'")
    with pytest.raises(MissingError, match="no Debian archive: run `apt-get update`"):
        apt.mirror()


def test_machine_without_apt_is_told_of_source(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(programs.folder))
    with pytest.raises(MissingError, match=r"apt-get is missing.*--source DIR\|TARBALL"):
        apt.mirror()


def test_missing_keyring_is_named(archive: Archive) -> None:
    apt.KEYRING.unlink()
    with pytest.raises(MissingError, match="install debian-archive-keyring"):
        archive.update()


def test_package_is_brought_once(archive: Archive, programs: Programs) -> None:
    found = archive.download("tiny", "amd64")
    assert found.read_text() == "deb\n"
    apt.check(found)
    assert verbs(programs) == ["update", "download"]
    assert archive.download("tiny", "amd64") == found
    assert programs.calls() == []


def test_source_package_is_its_dsc(archive: Archive) -> None:
    found = archive.source("qemu")
    assert found.name == "qemu_1.dsc"
    assert (found.parent / "qemu_1.orig.tar.xz").exists()
    apt.check(found)


@pytest.mark.parametrize("damage", ["changed", "gone", "added"])
def test_corrupted_download_is_refused_and_removed(
    archive: Archive, programs: Programs, damage: str
) -> None:
    found = archive.source("qemu")
    bad = found.parent / ("evil.patch" if damage == "added" else "qemu_1.orig.tar.xz")
    if damage == "gone":
        bad.unlink()
    else:
        bad.write_text("evil")
    with pytest.raises(QapError, match=rf"cached {bad.name} is corrupted .*removed.*again"):
        apt.check(found)
    assert not found.parent.exists()
    programs.calls()
    apt.check(archive.source("qemu"))
    assert verbs(programs) == ["update", "source"]


def test_no_network_names_what_and_where_from(archive: Archive, programs: Programs) -> None:
    apt_get(programs, update="echo 'E: Could not resolve mirror.example' >&2; exit 100")
    with pytest.raises(MissingError, match=rf"of Debian trixie from {MIRROR}.*network") as missing:
        archive.download("tiny", "amd64")
    assert missing.value.detail == "E: Could not resolve mirror.example"


def test_no_such_package_is_named(archive: Archive, programs: Programs) -> None:
    apt_get(programs, download="echo half >tiny.deb; echo 'E: no package tiny' >&2; exit 100")
    with pytest.raises(MissingError, match=rf"tiny:amd64 of Debian trixie from {MIRROR}"):
        archive.download("tiny", "amd64")
    apt_get(programs)
    assert archive.download("tiny", "amd64").read_text() == "deb\n"


def test_no_network_is_no_matter_once_it_is_cached(archive: Archive, programs: Programs) -> None:
    found = archive.download("tiny", "amd64")
    apt_get(programs, update="exit 100", download="exit 100")
    assert archive.download("tiny", "amd64") == found


def test_every_change_goes_through_the_private_configuration(
    archive: Archive, programs: Programs
) -> None:
    archive.download("tiny", "amd64")
    given = programs.record.with_suffix(".calls.config").read_text().splitlines()
    private = [line for line in given if line]
    # Only the question which mirror the machine uses goes to its own apt.
    assert len(private) == len(verbs(programs)) == 2
    assert set(private) == {str(archive.home / "apt.conf")}


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="only apt itself can tell")
def test_apt_itself_takes_its_folders_from_the_private_configuration(archive: Archive) -> None:
    archive.update()
    said = subprocess.run(
        ["apt-config", "dump", "--format", "%f %v%n"],
        env={**os.environ, "APT_CONFIG": str(archive.home / "apt.conf")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    values = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    for name in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::sourcelist"):
        assert Path(values[name]).is_relative_to(archive.home), name
    assert not Path(values["Dir::Etc::sourceparts"]).exists()
    sources = Path(values["Dir::Etc::sourcelist"]).read_text()
    assert re.findall(r"^(?:URIs|Suites|Signed-By): (.*)$", sources, re.MULTILINE) == [
        MIRROR,
        "trixie",
        str(apt.KEYRING),
    ]


def test_download_that_was_interrupted_is_refused(archive: Archive) -> None:
    """_brought() copies file by file: killed half-way, it leaves a folder without the sums."""
    found = archive.download("tiny", "amd64")
    (found.parent / SUMS).unlink()
    with pytest.raises(QapError, match="removed"):
        apt.check(found)
