"""The file of qap repro --bundle: what is in it, what is not, and how it is read."""

import json
import socket
from pathlib import Path

import pytest

from qap.host.errors import UsageError
from qap.host.paths import Project, cache
from qap.machine.recording import Recording
from qap.scenario import bundle
from qap.scenario.bundle import Bundle
from qap.scenario.request import Request

REQUEST = Request(machine="q35", device="vhost-user-vsock-pci", plug="hot", viommu="amd-iommu")


def a_bundle(said: str = "nothing") -> Bundle:
    recording = Recording(qmp=[said], console=[said], qemu=[said], traces=[said])
    result = {"seen": {"outcome": "refused", "error": said, "commands": [said]}, "problems": [said]}
    return Bundle.of(REQUEST, {"qap": "1", "builds": [said]}, result, recording)


def test_case_is_read_as_it_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    a_bundle().write(path)
    there = bundle.read(path)
    assert (there.request, there.outcome) == (REQUEST, "refused")
    assert there == a_bundle()


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"outcome": ""}, "went wrong"),
        ({"outcome": "works", "io": "", "again": None, "migrated": None}, "works"),
        ({"outcome": "works", "migrated": False}, "works, not migrated"),
        (
            {"outcome": "works", "io": "waits", "again": True},
            "works, without its back-end a read waits, then served again",
        ),
    ],
)
def test_outcome_says_how_a_guest_went_on(seen: dict[str, object], said: str) -> None:
    assert bundle.outcome({"seen": seen}) == said


@pytest.mark.parametrize(
    ("private", "instead"),
    [
        (str(Path.home() / "x"), "$HOME/x"),
        (str(Project.here().root / "qemu"), "$QAP/qemu"),
        (str(cache() / "taken"), "$CACHE/taken"),
        ("/tmp/qap-a8_bcd12/vm.sock", "$DIR/vm.sock"),
        ("on a-host.example, they say", "on $HOST.example, they say"),
    ],
)
def test_no_home_and_no_host_is_in_it(
    private: str, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a-host")
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    path = tmp_path / "bundle"
    a_bundle(f"say {private}").write(path)
    text = path.read_text()
    assert private not in text
    assert text.count(f"say {instead}") == 9


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no bundle of qap repro"),
        (b"qemu-system-x86_64 -M q35", "no bundle of qap repro"),
        (b"\x7fELF\xff\xfe", "no bundle of qap repro"),
        (b'{"schema": 1}', "no bundle of qap repro"),
    ],
)
def test_something_else_is_no_bundle(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        bundle.read(path)


def test_half_a_bundle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    a_bundle().write(path)
    whole = path.read_text()
    for size in (len(whole) // 4, len(whole) // 2, len(whole) - 3):
        path.write_text(whole[:size])
        with pytest.raises(UsageError, match=r"broken off or damaged in line \d"):
            bundle.read(path)


def test_bundle_of_a_later_format_names_both(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    a_bundle().write(path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UsageError, match="its format is 2, and this qap knows 1"):
        bundle.read(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("request", {"machine": 1}, "request.machine: "),
        ("request", {"plug": "warm"}, "request.plug: "),
        ("result", {}, "result has no outcome"),
        ("format", "one", "format: "),
        ("traces", 7, "traces: "),
    ],
)
def test_wrong_value_is_named(key: str, value: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    a_bundle().write(path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, key: value}))
    with pytest.raises(UsageError, match=said):
        bundle.read(path)


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        bundle.read(tmp_path / "none")
