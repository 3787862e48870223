"""Which bundles there are, and fetching them before the work starts."""

from collections.abc import Sequence

import pytest

from qap.cli import archive
from qap.host.debian import bundles, taken
from qap.host.debian.bundle import Bundle
from qap.host.debian.failure import Reason, Unavailable
from qap.host.debian.place import Place
from qap.host.debian.suite import Suite
from qap.host.errors import MissingError, UsageError
from qap.host.paths import data
from qap.machine import catalog
from qap.machine.guest import kernel

from ..project import Project

ARCHIVE_TOML = """\
[tool]
packages = ["tool", "library", "emulator:amd64"]
architectures = ["amd64", "s390x"]
places = [
    { suite = "trixie" },
    { suite = "trixie", mixed = { library = "forky" }, only = ["s390x"] },
]
"""

GUESTS_TOML = """\
[old]
qemu = "s390x"
architecture = "s390x"
suites = ["bullseye"]
kernel = "linux-source-5.10"
recipe = "old"
console = "ttysclp0"
machine = "s390-ccw-virtio"
cpu = "max"
boot_silence = 60
"""


@pytest.fixture
def configured(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose archive.toml has one bundle, for two architectures."""
    monkeypatch.setattr(bundles, "data", lambda: project.configs)
    monkeypatch.setattr(bundles, "_entries", bundles._entries.__wrapped__)
    monkeypatch.setattr(catalog, "data", lambda: project.configs)
    monkeypatch.setattr(catalog, "guests", catalog.guests.__wrapped__)
    (project.configs / "archive.toml").write_text(ARCHIVE_TOML)
    (project.configs / "guests.toml").touch()
    return project


def test_bundle_has_an_architecture_and_the_places_for_it(configured: Project) -> None:
    mix = Place(suite="trixie", mixed={"library": "forky"}, only=("s390x",))
    assert bundles.bundle("tool", "s390x") == Bundle(
        "tool:s390x",
        ("tool:s390x", "library:s390x", "emulator:amd64"),
        (Place(suite="trixie"), mix),
    )
    assert bundles.bundle("tool", "amd64").places == (Place(suite="trixie"),)
    assert mix.title == "trixie with library of forky"


def test_everything_is_the_source_and_what_the_guests_need(configured: Project) -> None:
    names = [bundle.name for bundle in archive.everything()]
    assert names == ["qemu:source", "tool:amd64", "tool:s390x"]
    assert [bundle.name for bundle in archive.chosen(["tool:s390x"])] == ["tool:s390x"]


@pytest.mark.parametrize("name", ["tool:s390", "tool"])
def test_unknown_bundle_is_answered_with_near_ones(configured: Project, name: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown bundle '{name}': did you mean .*tool:s390x"):
        archive.chosen([name])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'suite = "trixie" }',
            "suit = 1 }",
            r"archive\.toml: tool\.places\.0\.suite: Field required",
        ),
        ("library = ", "libary = ", r"archive\.toml: .*libary is no package of it"),
        ('only = ["s390x"]', 'only = ["riscv64"]', r"archive\.toml: .*riscv64 is no architecture"),
        ('suite = "trixie" }', 'suite = "sid", only = ["s390x"] }', r"no place is good for amd64"),
        ('"library", ', '"tool", ', r"archive\.toml: .*tool is there twice"),
    ],
)
def test_mistake_in_the_file_is_named(configured: Project, old: str, new: str, said: str) -> None:
    path = configured.configs / "archive.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        bundles.bundles()


def test_what_can_not_be_had_is_said_and_the_rest_brought(
    configured: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    brought = []

    def take(bundle: Bundle, *, renew: bool, away: Unavailable | None) -> None:
        if bundle.name == "tool:amd64":
            raise MissingError("cannot bring it")
        brought.append((bundle.name, renew, away))

    monkeypatch.setattr(Bundle, "take", take)
    archive.bring_for_guests()
    assert brought == [("tool:s390x", False, None)]
    assert capfd.readouterr().err == "qap: cannot bring it\n"


@pytest.mark.parametrize("compiled", [False, True])
def test_kernel_that_has_to_be_compiled_comes_if_asked_for(
    configured: Project, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    (configured.configs / "guests.toml").write_text(GUESTS_TOML)
    brought: list[str] = []
    built: list[str] = []

    def take(bundle: Bundle, *, renew: bool, away: Unavailable | None) -> None:
        brought.append(bundle.name)

    monkeypatch.setattr(Bundle, "take", take)
    monkeypatch.setattr(Bundle, "taken", lambda bundle: brought if bundle.name in brought else None)
    monkeypatch.setattr(kernel, "kernel", lambda guest: built.append(guest.name))
    archive.bring_for_guests(compiled=compiled)
    assert ("kernel:old" in brought, built) == (compiled, ["old"] if compiled else [])
    assert archive.chosen(["kernel:old"])[0].packages == ("linux-source-5.10:all",)


def test_mirror_that_does_not_answer_is_waited_for_once(
    configured: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def bring(suite: Suite, packages: Sequence[str]) -> None:
        asked.append(suite)
        raise Unavailable(Reason.NO_NETWORK, "no network")

    monkeypatch.setattr(Suite, "_bring", bring)
    failed = [str(exc) for _, exc in archive.take_each(archive.everything())]
    assert asked == [Suite("trixie", "source")]
    assert all(
        "no network): connect to the network, then ./qap fetch" in message for message in failed
    )


def test_records_of_bundles_that_are_gone_go(configured: Project) -> None:
    for name in ("tool:amd64", "older:amd64"):
        taken.home(name).mkdir(parents=True)
        (taken.home(name) / taken.RECORD).touch()
    archive.forget_others()
    assert [path.parent for path in taken.records()] == [taken.home("tool:amd64")]


def test_every_bundle_of_this_repository_has_a_place() -> None:
    assert (data() / "archive.toml").exists()
    everything = archive.everything()
    assert "modules:x86_64" in [bundle.name for bundle in everything]
    for bundle in everything:
        assert bundle.packages and bundle.places, bundle.name
