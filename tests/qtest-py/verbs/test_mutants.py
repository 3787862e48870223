"""QEMUs with a single fault, which the matrix must detect and report."""

import filecmp
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qap.fork.build import Build
from qap.fork.mutant import Edit, StandIn, mutant
from qap.host.errors import QapError, UsageError
from qap.matrix import run
from qap.matrix.cell import selected
from qap.matrix.group import Group, groups
from qap.matrix.result import CellResult

SYSTEM = "qemu-system-x86_64"
BUILD = Build.under_test()
BUS, VIRTIO, RNG = "hw/virtio/virtio-bus.c", "hw/virtio/virtio.c", "hw/virtio/virtio-rng.c"
VHOST = "hw/virtio/vhost.c"
RETURNS = "machine=q35,device=vhost-user-blk,viommu=intel-off,iommu_platform=on,driver=accepts"
RETURNS += ",backend=ap,later=returns-without-version-1"
MOVES = "machine=q35,device=virtio-rng,viommu=none,iommu_platform=off,driver=insists"
MOVES += ",later=moves-on,fence=fenced"
Results = dict[str, dict[str, Any]]

UNTRANSLATED = "machine=q35,interface=modern,device=vhost-user-fs,backend=no-ap,viommu=intel-off"
UNTRANSLATED += ",iommu_platform=on"
REFUSES = "machine=q35,interface=modern,device=virtio-rng|virtio-blk,viommu=none,plug=hot"
REFUSES += ",iommu_platform=on,driver=refuses,later=stays"
ACCEPTS = "machine=q35,interface=modern,device=virtio-rng|vhost-user-fs,viommu=none|intel-off"
ACCEPTS += ",plug=hot,backend=in-qemu|ap,driver=accepts,later=stays,fence=fenced"


def carried_out(build: Build, *selectors: str) -> Results:
    """The results of cells by their names; groups run one after the other."""
    results: list[CellResult] = []
    for group in groups(selected(selectors)):
        Group(build, group, results.append).run()
    return {result.cell.name: result.as_dict() for result in results}


def texts(result: dict[str, Any]) -> list[str]:
    return [problem["text"] for problem in result["problems"]]


def instead(old: str, new: str) -> Edit:
    """An edit that replaces text that occurs exactly once."""

    def edit(source: str) -> str:
        assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
        return source.replace(old, new)

    return edit


# The fork's check: a back-end that can't translate is refused on a bus that translates.
NO_BUS_CHECK = instead("if (!virtio_bus_device_iommu_enabled(vdev)) {", "if (true) {")
NEITHER_AT_START = instead(
    "    return vdev->require_iommu_platform && !vdev->driver_exempt &&\n", "    return false &&\n"
)
# An old check of upstream: FEATURES_OK is cleared without ACCESS_PLATFORM.
NOR_AT_FEATURES_OK = instead(
    "    if (virtio_host_has_feature(vdev, VIRTIO_F_IOMMU_PLATFORM) &&\n"
    "        !virtio_vdev_has_feature(vdev, VIRTIO_F_IOMMU_PLATFORM)) {\n"
    "        return -EFAULT;\n"
    "    }\n",
    "",
)


def no_driver_check(text: str) -> str:
    """Remove the checks that the driver accepted ACCESS_PLATFORM."""
    return NOR_AT_FEATURES_OK(NEITHER_AT_START(text))


# Checks for a back-end that reconnects and for a driver that arrives by migration.
NO_RECHECK = instead("    if (accepted & ~features) {\n", "    if (false) {\n")
NOT_WHERE_IT_ARRIVES = instead(
    "        virtio_lacks_iommu_platform(vdev)) {\n        error_report(",
    "        false) {\n        error_report(",
)

DRIVE = "static void handle_input(VirtIODevice *vdev, VirtQueue *vq)\n{\n"
UNPLUG = "static void virtio_rng_device_unrealize(DeviceState *dev)\n{\n"
PLUG = "static uint64_t get_features(VirtIODevice *vdev, uint64_t f, Error **errp)\n{\n"


@pytest.fixture(scope="session")
def made() -> Iterator[Callable[[str, Edit], StandIn]]:
    """Builds with a mutant as the emulator; each is linked only once."""
    with ExitStack() as owned:

        @cache
        def make(source: str, edit: Edit) -> StandIn:
            folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-"))
            emulator = mutant(BUILD, SYSTEM, source, edit, Path(folder))
            return StandIn(BUILD.profile, BUILD.is_base, tool=SYSTEM, program=emulator)

        yield make


Made = Callable[[str, Edit], StandIn]


@pytest.mark.parametrize("source", [BUS, RNG])
def test_mutant_differs_from_the_build_only_where_it_is_edited(made: Made, source: str) -> None:
    same = made(source, lambda text: f"{text}/* The end. */\n")
    assert filecmp.cmp(same.path(SYSTEM), BUILD.path(SYSTEM), shallow=False)


def test_qemu_as_it_is_built_does_what_the_mutants_are_for() -> None:
    results = carried_out(BUILD, UNTRANSLATED, REFUSES, ACCEPTS, RETURNS, MOVES)
    assert len(results) > 8
    assert {result["verdict"] for result in results.values()} == {"match"}


def test_device_that_is_not_refused_is_seen(made: Made) -> None:
    results = carried_out(made(BUS, NO_BUS_CHECK), UNTRANSLATED)
    assert {name.rpartition("/on/")[2] for name in results} == {"hot/accepts", "cold/accepts"}
    assert len(results) == 3
    for result in results.values():
        assert result["verdict"] == "mismatch"
        assert "plugged, but must be refused" in texts(result)


def test_driver_that_is_not_refused_is_seen(made: Made) -> None:
    for result in carried_out(made(VIRTIO, no_driver_check), REFUSES).values():
        assert result["verdict"] == "mismatch"
        assert "FEATURES_OK stays" in texts(result)
        assert any(text.startswith("served, though the driver did not") for text in texts(result))


def test_back_end_that_is_not_asked_again_is_seen(made: Made) -> None:
    (result,) = carried_out(made(VHOST, NO_RECHECK), RETURNS).values()
    assert result["verdict"] == "mismatch"
    told = "the back-end that came back was told where the ring is, though the rings depend on"
    assert any(text.startswith(told) for text in texts(result))


def test_driver_that_is_not_turned_away_where_it_arrives_is_seen(made: Made) -> None:
    (result,) = carried_out(made(VIRTIO, NOT_WHERE_IT_ARRIVES), MOVES).values()
    assert result["verdict"] == "mismatch"
    assert any(text.startswith("the VM arrives, though") for text in texts(result))


@pytest.mark.parametrize(("source", "edit"), [(BUS, NO_BUS_CHECK), (VIRTIO, no_driver_check)])
def test_what_a_mutant_does_right_matches(made: Made, source: str, edit: Edit) -> None:
    results = carried_out(made(source, edit), ACCEPTS)
    assert {result["verdict"] for result in results.values()} == {"match"}


def test_run_on_a_mutant_fails(made: Made, tmp_path: Path) -> None:
    chosen = selected([REFUSES])
    assert run.matrix(chosen, BUILD, jobs=1, resume=False, folder=tmp_path).ok
    assert not run.matrix(
        chosen, made(VIRTIO, no_driver_check), jobs=1, resume=False, folder=tmp_path
    ).ok


def test_crash_is_a_failed_cell_with_its_backtrace_and_the_run_goes_on(made: Made) -> None:
    crashes = made(RNG, instead(DRIVE, f"{DRIVE}    abort();\n"))
    plug = "machine=q35,interface=modern,viommu=none,iommu_platform=on,plug=hot"
    plug += ",later=stays,fence=fenced"
    results = carried_out(
        crashes,
        f"{plug},device=virtio-rng,driver=accepts|refuses|renegotiates",
        f"{plug},device=virtio-balloon,driver=accepts",
    )
    verdicts = {
        name.split("/")[2] + " " + name.rpartition("/")[2]: result["verdict"]
        for name, result in results.items()
    }
    assert verdicts == {
        "virtio-rng accepts": "error",
        "virtio-rng refuses": "match",
        "virtio-rng renegotiates": "error",
        "virtio-balloon accepts": "match",
    }
    for result in results.values():
        if result["verdict"] == "error":
            assert_backtrace(result, "handle_input ()")


HOT = "q35/modern/virtio-rng/in-qemu/none/any/on/hot/accepts"
COLD = "q35/modern/virtio-rng/in-qemu/none/before/on/cold/accepts"


@pytest.mark.parametrize("name", [HOT, COLD])
def test_crash_while_it_is_plugged_has_a_backtrace(made: Made, name: str) -> None:
    crashes = made(RNG, instead(PLUG, f"{PLUG}    abort();\n"))
    (result,) = carried_out(crashes, name).values()
    assert result["verdict"] == "error"
    assert_backtrace(result, "get_features ()")


def test_crash_after_the_last_driver_is_a_failed_cell(made: Made) -> None:
    """The device is unplugged for the next cell, and QEMU crashes with no driver running."""
    crashes = made(RNG, instead(UNPLUG, f"{UNPLUG}    abort();\n"))
    results = carried_out(crashes, HOT, "q35/modern/virtio-balloon/in-qemu/none/any/on/hot/accepts")
    assert {result["axes"]["device"]: result["verdict"] for result in results.values()} == {
        "virtio-rng": "error",
        "virtio-balloon": "match",
    }
    assert_backtrace(results[HOT], "virtio_rng_device_unrealize ()")


def assert_backtrace(result: dict[str, Any], function: str) -> None:
    (text,) = texts(result)
    assert text.startswith(f"QEMU ended with status -{signal.SIGABRT}: ")
    assert result["seen"]["exit_status"] == -signal.SIGABRT
    frames = re.findall(r"^#\d+ .*", result["detail"], re.M)
    assert any(frame.endswith(f" in {function}") for frame in frames)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text, "^the edit of hw/virtio/virtio-rng.c changed nothing$"),
        (
            instead("return f;", "return g;"),
            r"^hw/virtio/virtio-rng.c as edited does not compile: "
            r"\.\./\.\./hw/virtio/virtio-rng\.c:\d+:\d+: error: .g. undeclared",
        ),
        (
            instead(DRIVE, f"void nowhere(void);\n{DRIVE}    nowhere();\n"),
            "^qemu-system-x86_64 does not link: .*undefined reference to `nowhere'$",
        ),
    ],
    ids=["nothing changed", "not C", "not all there"],
)
def test_edit_that_makes_no_qemu_says_why(tmp_path: Path, edit: Edit, said: str) -> None:
    with pytest.raises(QapError, match=said):
        mutant(BUILD, SYSTEM, RNG, edit, tmp_path)
    assert not (tmp_path / SYSTEM).exists()


def test_source_that_the_emulator_is_not_made_of_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^unknown source file .*virtio-rgn.c.*{RNG}"):
        mutant(BUILD, SYSTEM, "hw/virtio/virtio-rgn.c", str.upper, tmp_path)
    with pytest.raises(UsageError, match="unknown source file"):
        mutant(BUILD, SYSTEM, "hw/s390x/virtio-ccw.c", str.upper, tmp_path)
