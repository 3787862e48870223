"""Real apt with a mirror that lacks files, sends wrong ones, stops answering and recovers."""

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qap.host.debian import apt, suite
from qap.host.debian.bundle import Bundle
from qap.host.debian.failure import Reason
from qap.host.debian.package import unpacked
from qap.host.debian.place import Place
from qap.host.debian.sums import SUMS, check
from qap.host.debian.taken import Package, everything_taken
from qap.host.errors import MissingError, QapError

from ..project import Project
from .debian_archive import URI, Archive, Mirror, mirror

TRIXIE, FORKY = Place(suite="trixie"), Place(suite="forky")
TINY = Bundle("tiny:s390x", ("tiny:s390x",), (TRIXIE, FORKY))
NOT_FOUND = "the mirror lists tiny_1_s390x.deb and answers 404"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """All versions are 1 in trixie and 2 in forky; large has dependencies, tool is a source."""
    with Archive.make(tmp_path_factory.mktemp("archive")) as made:
        for suite, version in (("trixie", "1"), ("forky", "2")):
            _fill(made, suite, version)
            made.publish(suite)
        yield made


def _fill(archive: Archive, suite: str, version: str) -> None:
    for architecture in ("amd64", "s390x"):
        archive.add(suite, "tiny", version, architecture)
        archive.add(suite, "library", version, architecture)
        archive.add(suite, "large", version, architecture, f"large-{version}, tiny")
        archive.add(suite, f"large-{version}", version, architecture, f"large-data-{version}")
        archive.add(suite, f"large-data-{version}", version, architecture)
    archive.add_source(suite, "tool", version)


@pytest.fixture
def served(
    stock: Archive, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mirror]:
    """A mirror on loopback, which is the proxy of the machine's apt."""
    monkeypatch.setattr(apt, "KEYRING", stock.keyring)
    monkeypatch.setattr(apt, "SILENCE_S", 1)
    with mirror(stock.root) as made:
        monkeypatch.setenv("http_proxy", made.url)
        monkeypatch.setenv("no_proxy", "")
        machine(tmp_path, monkeypatch, URI)
        made.asked.clear()
        yield made


@pytest.fixture
def moving(served: Mirror, stock: Archive, tmp_path: Path) -> Archive:
    """Make the mirror serve this archive instead, which is still empty."""
    made = Archive(tmp_path / "moving/debian", stock.gnupg)
    made.root.mkdir(parents=True)
    served.root = made.root
    return made


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """Make this archive the source of the machine's own apt, and fetch its lists."""
    home = folder / "machine"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (home / part).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    (home / "sources.list").write_text(f"deb [signed-by={apt.KEYRING}] {uri} trixie main\n")
    conf = home / "apt.conf"
    conf.write_text(
        f'Dir::State "{home}/state"; Dir::State::status "{home}/status";\n'
        f'Dir::Cache "{home}/cache"; Dir::Etc::sourcelist "{home}/sources.list";\n'
        'Dir::Etc::sourceparts "-"; APT::Sandbox::User "root"; Acquire::Languages "none";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(conf))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    if uri == URI:
        subprocess.run(["apt-get", "update", "-qq", "--error-on=any"], check=True)


def package(name: str, version: str, suite: str) -> Package:
    return Package(name=name, version=version, suite=suite)


def test_first_suite_is_taken_in_silence(served: Mirror, capfd: pytest.CaptureFixture[str]) -> None:
    taken = TINY.take()
    assert (taken.place, taken.packages) == ("trixie", [package("tiny:s390x", "1", "trixie")])
    assert taken.passed_over == []
    assert (unpacked(TINY) / "usr/share/tiny").read_text() == "1\n"
    assert capfd.readouterr().err == ""


LIES: dict[str, tuple[Callable[[Mirror], None], Reason, str]] = {
    "404": (
        lambda served: served.lack("pool/trixie/tiny_1_s390x.deb"),
        Reason.NOT_FOUND,
        NOT_FOUND,
    ),
    "changed": (
        lambda served: served.changed.add("pool/trixie/tiny_1_s390x.deb"),
        Reason.DAMAGED,
        "the mirror's tiny_1_s390x.deb has the wrong size or hash",
    ),
    "short": (
        lambda served: served.short.add("pool/trixie/tiny_1_s390x.deb"),
        Reason.DAMAGED,
        "the mirror's tiny_1_s390x.deb has the wrong size or hash",
    ),
    "short index": (
        lambda served: served.short.add("dists/trixie/main/binary-s390x/*"),
        Reason.DAMAGED,
        "the mirror's Packages has the wrong size or hash",
    ),
    "forbidden": (
        lambda served: served.statuses.update({"pool/trixie/*": 403}),
        Reason.HTTP_STATUS,
        "the mirror answers 403 for tiny_1_s390x.deb",
    ),
    "out of order": (
        lambda served: served.statuses.update({"dists/trixie/*": 503}),
        Reason.HTTP_STATUS,
        "the mirror answers 503 for InRelease",
    ),
    "stalled": (
        lambda served: served.stalled.add("pool/trixie/*"),
        Reason.NO_NETWORK,
        "no network, or archive.test does not answer",
    ),
    "changed signature": (
        lambda served: served.changed.add("dists/trixie/InRelease"),
        Reason.NOT_TRUSTED,
        "its signature is missing, wrong or out of date",
    ),
    "no suite": (
        lambda served: served.lack("dists/trixie/*"),
        Reason.NO_SUITE,
        "the mirror has no such suite",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_next_suite_is_taken_and_one_line_says_why(
    served: Mirror, capfd: pytest.CaptureFixture[str], lie: str
) -> None:
    begin, reason, why = LIES[lie]
    begin(served)
    taken = TINY.take()
    assert taken.packages == [package("tiny:s390x", "2", "forky")]
    (passed,) = taken.passed_over
    assert (passed.place, passed.reason, passed.why) == ("trixie", reason, why)
    said = capfd.readouterr().err
    assert said == f"qap: tiny:s390x comes from forky instead of trixie: {why}\n"
    assert (unpacked(TINY) / "usr/share/tiny").read_text() == "2\n"


def test_index_that_is_broken_bars_no_other_architecture(served: Mirror) -> None:
    served.short.add("dists/trixie/main/binary-s390x/*")
    served.lack("dists/trixie/main/source/*")
    assert Bundle("tiny:amd64", ("tiny:amd64",), (TRIXIE, FORKY)).take().place == "trixie"


def test_missing_package_is_named_among_several(served: Mirror) -> None:
    packages = ("tiny:s390x", "library:s390x", "nothere:s390x")
    with pytest.raises(MissingError, match=r"\(it has no nothere:s390x\)"):
        Bundle("three:s390x", packages, (TRIXIE,)).take()


def test_language_of_the_machine_is_no_matter(
    served: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(MissingError, match="no network"):
        TINY.take()


def test_no_such_package_is_told_from_one_that_is_not_served(served: Mirror) -> None:
    bundle = Bundle("none:s390x", ("none:s390x",), (TRIXIE, FORKY))
    with pytest.raises(
        MissingError,
        match=r"^cannot bring none:s390x.*\(it has no none:s390x\): name a suite in configs/",
    ):
        bundle.take()
    served.lack("pool/*")
    with pytest.raises(
        MissingError,
        match=r"trixie: the mirror lists tiny_1_s390x\.deb and answers 404; "
        r"forky: the mirror lists tiny_2_s390x\.deb and answers 404\): the mirror is incomplete",
    ):
        TINY.take()


def test_silent_mirror_is_left_and_comes_back(served: Mirror) -> None:
    served.silent.add("*")
    start = time.monotonic()
    with pytest.raises(MissingError, match=r"no network, or archive\.test does not answer") as lost:
        TINY.take()
    # Two tries of 1 s for the lists, two for the package, and none for the next suite.
    assert time.monotonic() - start < 15
    assert not [path for path in served.asked if "forky" in path]
    assert "connect to the network, then ./qap fetch" in str(lost.value)
    served.honest()
    assert TINY.take().place == "trixie"


def test_nothing_listens(served: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(MissingError, match=r"no network, or 127\.0\.0\.1:1 does not answer"):
        TINY.take()


def test_name_that_does_not_resolve(
    served: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label is too long for DNS, so no name server is asked."""
    host = "x" * 64
    monkeypatch.delenv("http_proxy")
    monkeypatch.setattr(apt, "mirror", lambda: f"http://{host}/debian/")
    with pytest.raises(MissingError, match=rf"the name {host} does not resolve\): correct the"):
        TINY.take()


def test_cached_suite_is_taken_without_a_network(
    served: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bundle("tiny", ("tiny:s390x",), (FORKY,)).take()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    taken = TINY.take()
    assert taken.place == "forky"
    assert taken.passed_over[0].reason == Reason.NO_NETWORK


def test_lists_that_are_there_will_do(served: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    Bundle("library", ("library:s390x",), (TRIXIE,)).take()
    monkeypatch.setattr(suite, "LISTS_S", 0)
    served.short.add("dists/*")
    assert TINY.take().place == "trixie"
    assert any(path.startswith("dists/") for path in served.asked)


def test_lists_are_brought_anew_where_the_mirror_has_moved_on(
    moving: Archive,
) -> None:
    moving.add("trixie", "library", "1", "s390x")
    moving.add("trixie", "tiny", "1", "s390x")
    moving.publish("trixie")
    Bundle("library", ("library:s390x",), (TRIXIE,)).take()
    (moving.root / "pool/trixie/tiny_1_s390x.deb").unlink()
    moving.add("trixie", "tiny", "1.1", "s390x")
    moving.publish("trixie")
    taken = TINY.take()
    assert (taken.packages, taken.passed_over) == ([package("tiny:s390x", "1.1", "trixie")], [])


def test_what_was_taken_is_kept_to_until_it_is_renewed(
    served: Mirror, capfd: pytest.CaptureFixture[str]
) -> None:
    served.lack("pool/trixie/*")
    before = TINY.take()
    served.honest()
    served.asked.clear()
    assert TINY.take() == before == TINY.taken()
    assert served.asked == []
    renewed = TINY.take(renew=True)
    assert (renewed.place, renewed.passed_over) == ("trixie", [])
    assert TINY.taken() == renewed
    assert capfd.readouterr().err.count("\n") == 1


def test_renewal_that_brings_nothing_better_says_nothing_new(
    served: Mirror, capfd: pytest.CaptureFixture[str]
) -> None:
    served.lack("pool/trixie/*")
    before = TINY.take()
    assert TINY.take(renew=True) == before
    assert capfd.readouterr().err.count("\n") == 1


def test_all_packages_come_from_one_place(served: Mirror) -> None:
    both = Bundle("both:s390x", ("tiny:s390x", "library:s390x"), (TRIXIE, FORKY))
    served.lack("pool/trixie/library_*")
    assert {package.suite for package in both.take().packages} == {"forky"}


def test_mix_takes_the_rest_from_its_suite(served: Mirror) -> None:
    mixed = Place(suite="trixie", mixed={"library": "forky"})
    both = Bundle("both:s390x", ("tiny:s390x", "library:s390x"), (TRIXIE, mixed))
    served.lack("pool/trixie/library_*")
    taken = both.take()
    assert taken.place == "trixie with library of forky"
    assert taken.packages == [
        package("tiny:s390x", "1", "trixie"),
        package("library:s390x", "2", "forky"),
    ]


@pytest.mark.parametrize("missing", ["none", "large-data"])
def test_dependencies_are_followed_within_a_suite(served: Mirror, missing: str) -> None:
    served.lack(f"pool/trixie/{missing}*")
    large = Bundle("large:s390x", ("large:s390x",), (TRIXIE, FORKY), follow=("large-",))
    version, suite = ("1", "trixie") if missing == "none" else ("2", "forky")
    assert large.take().packages == [
        package(f"{name}:s390x", version, suite)
        for name in ("large", f"large-{version}", f"large-data-{version}")
    ]


def test_metapackage_is_brought_anew_where_its_parts_are_gone(
    moving: Archive,
) -> None:
    """Like linux-image-*, which depends on a version; an earlier run may have failed there."""
    large = Bundle("large:s390x", ("large:s390x",), (TRIXIE,), follow=("large-",))
    moving.add("trixie", "large", "1", "s390x", "large-1")
    moving.publish("trixie")
    with pytest.raises(MissingError, match="it has no large-1"):
        large.take()
    moving.add("trixie", "large", "2", "s390x", "large-2")
    moving.add("trixie", "large-2", "2", "s390x")
    moving.publish("trixie")
    assert [package.version for package in large.take().packages] == ["2", "2"]


def test_record_of_a_package_that_was_replaced_counts_no_more(served: Mirror) -> None:
    """All packages of a bundle must fit together, so a missing one makes the record invalid."""
    first = TINY.take()
    (file,) = first.files
    file.rename(file.with_name("tiny_0.9_s390x.deb"))
    assert TINY.taken() is None
    assert everything_taken() == []


@pytest.mark.parametrize("damage", ["empty folder", "sums"])
def test_cache_that_is_damaged_is_mended(served: Mirror, damage: str) -> None:
    (file,) = TINY.files()
    if damage == "sums":
        (file.parent / SUMS).write_bytes(b"\xff\n")
        with pytest.raises(QapError, match="removed, run this again"):
            check(file)
    else:
        file.unlink()
    (again,) = TINY.files()
    assert check(again) == file


def test_source_package_falls_back_likewise(served: Mirror) -> None:
    tool = Bundle("tool:source", ("tool:source",), (TRIXIE, FORKY))
    served.lack("pool/trixie/tool_*.tar.xz")
    (dsc,) = tool.files()
    assert dsc.name == "tool_2.dsc"
    assert tool.take().passed_over[0].why == "the mirror lists tool_1.tar.xz and answers 404"


def test_version_that_a_suite_has_beside_a_newer_one(served: Mirror, moving: Archive) -> None:
    """The cache holds one version of a suite's package, and is asked for which."""
    for version in ("1:2", "1:3"):
        moving.add_source("sid", "tool", version)
    moving.publish("sid")

    def of(version: str) -> Bundle:
        return Bundle("tool:source", ("tool:source",), (Place(suite="sid", version=version),))

    for version, name in (("1:2", "tool_2.dsc"), ("", "tool_2.dsc"), ("1:3", "tool_3.dsc")):
        (dsc,) = of(version).files()
        assert dsc.name == name
    with pytest.raises(MissingError, match="it has no tool"):
        of("1:4").files()


def test_everything_taken_is_there_for_reports(served: Mirror) -> None:
    assert everything_taken() == []
    served.lack("pool/trixie/*")
    TINY.take()
    (taken,) = everything_taken()
    assert taken.model_dump() == {
        "bundle": "tiny:s390x",
        "place": "forky",
        "packages": [{"name": "tiny:s390x", "version": "2", "suite": "forky"}],
        "passed_over": [{"place": "trixie", "reason": "not-found", "why": NOT_FOUND}],
    }


def test_bundle_that_changed_is_chosen_anew(served: Mirror) -> None:
    TINY.take()
    changed = replace(TINY, places=(FORKY,))
    assert changed.taken() is None
    assert changed.take().place == "forky"
    assert [taken.place for taken in everything_taken()] == ["forky"]
