"""Packages from a private apt: cached, checked, and separate from the system's."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qap.host.debian import apt
from qap.host.debian.failure import Reason, unavailable
from qap.host.debian.suite import Suite
from qap.host.debian.sums import SUMS, check
from qap.host.errors import MissingError, QapError

from ..programs import Programs
from ..project import Project

OTHER = "apt failed (The package cache file is corrupted)"
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
def trixie(project: Project, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Debian trixie with a package "tiny" of amd64, from a fake apt-get."""
    keyring = project.root / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(apt, "KEYRING", keyring)
    monkeypatch.delenv("APT_CONFIG", raising=False)
    apt_get(programs)
    return Suite("trixie", "amd64")


def apt_get(
    programs: Programs, update: str = ":", download: str = "echo deb >tiny_1_amd64.deb"
) -> None:
    script = APT_GET.format(record=programs.record, rows=ROWS, update=update, download=download)
    programs.add("apt-get", script)


def tiny(trixie: Suite) -> Path:
    return trixie.bring(["tiny"])[0]


def source() -> Path:
    return Suite("trixie", "source").bring(["qemu"])[0]


def verbs(programs: Programs) -> list[str]:
    return [call.split()[1] for call in programs.calls() if "indextargets" not in call]


def test_mirror_is_the_one_of_debian_s_own_archive(trixie: Suite) -> None:
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


def test_missing_keyring_is_named(trixie: Suite) -> None:
    apt.KEYRING.unlink()
    with pytest.raises(MissingError, match="install debian-archive-keyring"):
        tiny(trixie)


def test_package_is_brought_once(trixie: Suite, programs: Programs) -> None:
    deb = tiny(trixie)
    assert deb.read_text() == "deb\n"
    check(deb)
    assert verbs(programs) == ["update", "download"]
    assert tiny(trixie) == deb
    assert programs.calls() == []


def test_source_package_is_its_dsc(trixie: Suite) -> None:
    dsc = source()
    assert dsc.name == "qemu_1.dsc"
    assert (dsc.parent / "qemu_1.orig.tar.xz").exists()
    check(dsc)


@pytest.mark.parametrize("damage", ["changed", "gone", "added"])
def test_corrupted_download_is_refused_and_removed(
    trixie: Suite, programs: Programs, damage: str
) -> None:
    dsc = source()
    bad = dsc.parent / ("evil.patch" if damage == "added" else "qemu_1.orig.tar.xz")
    if damage == "gone":
        bad.unlink()
    else:
        bad.write_text("evil")
    with pytest.raises(QapError, match=rf"cached {bad.name} is corrupted .*removed.*again"):
        check(dsc)
    assert not dsc.parent.exists()
    programs.calls()
    check(source())
    assert verbs(programs) == ["source"]


@pytest.mark.parametrize(
    ("line", "reason", "why"),
    [
        (
            "E: Failed to fetch http://a.test/x.deb  Temporary failure resolving 'a.test'",
            Reason.NO_NETWORK,
            "no network, or a.test does not answer",
        ),
        (
            "E: Failed to fetch http://a.test/x.deb  Connection timed out [IP: 192.0.2.1 80]",
            Reason.NO_NETWORK,
            "no network, or a.test does not answer",
        ),
        (
            "E: Failed to fetch http://a.test/x.deb  Could not connect to 127.0.0.1:1 "
            "(127.0.0.1). - connect (111: Connection refused)",
            Reason.NO_NETWORK,
            "no network, or 127.0.0.1:1 does not answer",
        ),
        (
            "E: Failed to fetch http://a.test/x.deb  Unable to connect to 127.0.0.1:1: ",
            Reason.NO_NETWORK,
            "no network, or 127.0.0.1:1 does not answer",
        ),
        (
            "E: Failed to fetch http://a.test/dists/x/InRelease  Clearsigned file isn't valid, got "
            "'NOSPLIT' (does the network require authentication?)",
            Reason.DAMAGED,
            "the mirror's InRelease has the wrong size or hash",
        ),
        (
            "E: Release file for http://a.test/dists/x/InRelease is expired (invalid since 9d). "
            "Updates for this repository will not be applied.",
            Reason.NOT_TRUSTED,
            "its signature is missing, wrong or out of date",
        ),
        (
            "E: Write error - write (28: No space left on device)",
            Reason.NO_SPACE,
            "the disk is full",
        ),
        ("E: The package cache file is corrupted", Reason.OTHER, OTHER),
    ],
)
def test_what_apt_says_is_told_apart(line: str, reason: Reason, why: str) -> None:
    """Messages that a test can't cause; test_debian_mirror.py has the others, with real apt."""
    failure = unavailable(f"W: nothing\n{line}\n", "x")
    assert (failure.reason, failure.why, failure.detail) == (reason, why, line)


def test_no_network_is_no_matter_once_it_is_cached(trixie: Suite, programs: Programs) -> None:
    deb = tiny(trixie)
    apt_get(programs, update="exit 100", download="exit 100")
    assert tiny(trixie) == deb


def test_every_change_goes_through_the_private_configuration(
    trixie: Suite, programs: Programs
) -> None:
    tiny(trixie)
    given = programs.record.with_suffix(".calls.config").read_text().splitlines()
    private = [line for line in given if line]
    # The machine's own apt is only asked which mirror it uses.
    assert len(private) == len(verbs(programs)) == 2
    assert set(private) == {str(trixie._apt.home / "apt.conf")}


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="only apt itself can tell")
def test_apt_itself_takes_its_folders_from_the_private_configuration(trixie: Suite) -> None:
    tiny(trixie)
    said = subprocess.run(
        ["apt-config", "dump", "--format", "%f %v%n"],
        env={**os.environ, "APT_CONFIG": str(trixie._apt.home / "apt.conf")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    values = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    for name in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::sourcelist"):
        assert Path(values[name]).is_relative_to(trixie._apt.home), name
    assert not Path(values["Dir::Etc::sourceparts"]).exists()
    sources = Path(values["Dir::Etc::sourcelist"]).read_text()
    assert re.findall(r"^(?:URIs|Suites|Signed-By): (.*)$", sources, re.MULTILINE) == [
        MIRROR,
        "trixie",
        str(apt.KEYRING),
    ]


def test_download_that_was_interrupted_is_refused(trixie: Suite) -> None:
    """_brought() copies file by file: killed half-way, it leaves a folder without the sums."""
    deb = tiny(trixie)
    (deb.parent / SUMS).unlink()
    with pytest.raises(QapError, match="removed"):
        check(deb)
