"""Error texts: each is somebody's, and is found from what people paste."""

import re
from functools import cache
from pathlib import Path

import pytest

from qap.explain.error_texts import GAP, ErrorText, error_texts, find, in_log, plain
from qap.host.errors import UsageError
from qap.oracle.fence import Outcome

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "qemu" / "base"
FOLDERS = ("hw/virtio", "hw/pci", "hw/core", "hw/s390x", "util")
# What guests say is waited for by tests and by the scripts that they run in guests.
TESTS = ("tests/avocado", "tests/qtest-py", "src/qap/machine/guest", "src/qap/verify/kit")
# Adjacent string literals of C are one, with the macros between them that name a format.
JOINT = re.compile(r'"[\s\\]*(?:PRI\w+\s*)?"')
FORMAT = re.compile(r"%\w*")


def literals(source: str) -> str:
    """C source with its adjacent string literals joined, and formats as gaps."""
    source = source.replace('" TYPE_CONFIDENTIAL_SIM "', "x-confidential-sim")
    source = source.replace('TYPE_CONFIDENTIAL_SIM "', '"x-confidential-sim')
    return plain(FORMAT.sub(GAP, JOINT.sub("", source)))


@cache
def patches() -> str:
    """What the patches add."""
    files = (ROOT / "qemu" / "patches").rglob("*.patch")
    lines = [
        line[1:] for file in files for line in file.read_text().splitlines() if line.startswith("+")
    ]
    return literals("\n".join(lines))


@cache
def qemu() -> str:
    files = [file for folder in FOLDERS for file in (SOURCE / folder).rglob("*.c")]
    return literals("\n".join(file.read_text(errors="replace") for file in files))


@cache
def watched() -> str:
    files = [file for folder in TESTS for file in (ROOT / folder).rglob("*") if file.is_file()]
    return plain("\n".join(file.read_text(errors="replace") for file in files))


def said_in(text: ErrorText, source: str) -> bool:
    if text.by == "linux":
        return plain(text.text) in source
    parts = [re.escape(plain(part)) for part in text.text.split(GAP)]
    # A patch puts what differs into an argument: “…: %s; …” and the words for it.
    halves = [re.escape(plain(part)) for part in re.split(r"(?<=device): |(?<=sim): ", text.text)]
    return bool(re.search(rf"\s*{GAP}\s*".join(parts), source)) or (
        len(halves) > 1 and all(re.search(half, source) for half in halves)
    )


BY = {who: [one for one in error_texts() if one.by == who] for who in ("fork", "qemu", "linux")}


@pytest.mark.parametrize("text", BY["fork"], ids=lambda one: one.text[:40])
def test_text_of_the_fork_is_in_a_patch(text: ErrorText) -> None:
    assert said_in(text, patches())


@pytest.mark.skipif(not SOURCE.exists(), reason="QEMU's source is not here yet: run ./qap tree")
@pytest.mark.parametrize("text", BY["qemu"], ids=lambda one: one.text[:40])
def test_text_of_qemu_is_in_its_source(text: ErrorText) -> None:
    assert said_in(text, qemu())


@pytest.mark.skipif(not SOURCE.exists(), reason="QEMU's source is not here yet: run ./qap tree")
@pytest.mark.parametrize("text", BY["fork"], ids=lambda one: one.text[:40])
def test_text_of_the_fork_is_not_in_stock_qemu(text: ErrorText) -> None:
    assert not said_in(text, qemu())


@pytest.mark.parametrize("text", BY["linux"], ids=lambda one: one.text[:40])
def test_text_of_linux_is_seen_by_a_test(text: ErrorText) -> None:
    assert said_in(text, watched())


@pytest.mark.parametrize("text", error_texts(), ids=lambda one: one.text[:40])
def test_text_finds_itself(text: ErrorText) -> None:
    (found,) = find(text.text.replace(GAP, "7"))
    assert (found.text, found.exact) == (text, True)


@pytest.mark.parametrize("text", error_texts(), ids=lambda one: one.text[:40])
def test_text_means_something(text: ErrorText) -> None:
    assert text.meaning
    assert text.remedies
    for facts in text.rows:
        assert facts.expected.why


BUS = "the bus is behind an IOMMU and the backend does not offer VIRTIO_F_ACCESS_PLATFORM"
REFUSED = "iommu_platform=true is not supported by the device"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (f"qemu-system-x86_64: -device x: {REFUSED}", REFUSED),
        (f"vhost-user-fs-pci 'fs0' on bus 'rp0': {REFUSED}: {BUS}; use a backend that does",
         f"{REFUSED}: {BUS}"),
        (f"error: internal error: unable to execute QEMU command 'device_add': {REFUSED}", REFUSED),
        (f"internal error: QEMU unexpectedly closed the monitor (vm='x'): {REFUSED}", REFUSED),
        ("virtiofs virtio2: device must provide VIRTIO_F_ACCESS_PLATFORM",
         "device must provide VIRTIO_F_ACCESS_PLATFORM"),
        ("[    1.5] virtio_balloon virtio0: virtio: device refuses features: 3",
         "virtio: device refuses features"),
        ("Failed to connect to '/run/fs.sock': No such file or directory",
         "Failed to connect to '…'"),
        ("Features 0x330010000 unsupported. Allowed features: 0x1",
         "unsupported. Allowed features: 0x"),
        ("IOMMU_PLATFORM was supported by neither legacy",
         "VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device"),
    ],
)  # fmt: skip
def test_what_people_paste(said: str, text: str) -> None:
    (found,) = find(said)
    assert (found.text.text, found.exact) == (text, True)


def test_text_of_another_version_finds_the_nearest() -> None:
    (found,) = find("IOMMU support requires reply-ack and slave-req protocol features.")
    assert not found.exact
    assert "backend-req" in found.text.text


@pytest.mark.parametrize("said", ["", "error", "Guest has not initialized the display (yet)."])
def test_what_is_not_known(said: str) -> None:
    assert find(said) == []


def test_a_log_tells_what_it_says_once() -> None:
    log = f"a: {REFUSED}\nb: {REFUSED}\nc: device must provide VIRTIO_F_ACCESS_PLATFORM\n"
    assert [one.by for one in in_log(log)] == ["qemu", "linux"]


def test_rows_are_those_of_the_outcome() -> None:
    (found,) = find(BUS)
    (facts,) = found.text.rows
    assert facts.expected.outcome is Outcome.REFUSED


def test_documentation_has_each_text() -> None:
    page = (ROOT / "docs" / "reproduce.md").read_text()
    (table,) = re.findall(r"(?s)\| text \| said by \|.*?\n\|---.*?\n(.*?)\n\n", page)
    shown = [line.removeprefix("| ").split(" | ") for line in table.splitlines()]
    assert [row[0] for row in shown] == [one.text for one in error_texts()]
    for row, one in zip(shown, error_texts(), strict=True):
        assert all(facts.expected.why in row[2] for facts in one.rows)


def test_wrong_file_is_one_line(tmp_path: Path) -> None:
    from qap.explain.error_texts import ErrorTexts
    from qap.host.toml import checked

    with pytest.raises(UsageError, match=r"x\.toml: text"):
        checked(ErrorTexts, {"text": [{"text": "a"}]}, tmp_path / "x.toml")
