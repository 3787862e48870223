"""The matrix on a real QEMU: it detects faults and goes on after a failure."""

import re
import subprocess
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

import pytest

from qap.fork.build import Build
from qap.matrix.cell import Cell, cells, named, selected
from qap.matrix.group import Group, groups
from qap.matrix.result import CellResult
from qap.oracle import fence as oracle
from qap.oracle.fence import Outcome

FORK = Build.under_test()
STOCK = Build(FORK.profile, is_base=True)
# Cells that need no patch, or one that is in the queue.
SETTLED = (
    "device=virtio-rng,viommu=none,interface=modern|transitional|version-2|revision-2,"
    "driver=accepts|refuses|kicks-early|renegotiates|unplugs,later=stays,fence=fenced"
)
RNG = "q35/modern/virtio-rng/in-qemu/none/any"
BALLOON = "q35/modern/virtio-balloon/in-qemu/none/any/on/hot/accepts"
FS = "q35/modern/vhost-user-fs"
BLK = "q35/modern/vhost-user-blk/ap/intel-off/any"
CRYPTO = "q35/modern/vhost-user-crypto/ap/none/any"
Results = dict[str, dict[str, Any]]


def carried_out(build: Build, *selectors: str) -> Results:
    """The results of cells by their names; groups run one after the other."""
    results: list[CellResult] = []
    for group in groups(selected(selectors)):
        Group(build, group, results.append).run()
    return {result.cell.name: result.as_dict() for result in results}


def verdicts(results: Results) -> dict[str, str]:
    return {name: result["verdict"] for name, result in results.items()}


@pytest.mark.parametrize("machine", ["q35", "pc", "s390-ccw-virtio"])
def test_hot_plugged_devices_match_in_one_qemu(machine: str) -> None:
    results = carried_out(FORK, f"machine={machine},plug=hot,{SETTLED}")
    assert len(results) >= 10
    assert set(verdicts(results).values()) == {"match"}
    assert sum(result["fresh"] for result in results.values()) == 1


@pytest.mark.parametrize("machine", ["q35", "microvm", "s390-ccw-virtio"])
def test_cold_plugged_devices_match_each_in_its_qemu(machine: str) -> None:
    chosen = f"machine={machine},plug=cold,{SETTLED}"
    results = carried_out(FORK, chosen)
    assert set(verdicts(results).values()) == {"match"}
    configs = {cell.config for cell in selected([chosen])}
    assert sum(result["fresh"] for result in results.values()) == len(configs) > 1


def test_result_has_the_lines_to_do_it_by_hand() -> None:
    (result,) = carried_out(FORK, BALLOON).values()
    start, plug = result["qemu"]
    assert start.startswith("qemu-system-x86_64 ")
    assert plug.startswith('device_add {"driver": "virtio-balloon-pci"')
    assert result["repro"] == f"./qap repro --cell {BALLOON}"


# Faults of stock QEMU 10.0, by the cell that shows them.
FAULTS = {
    f"{FS}/no-ap/none/any/on/hot/accepts": "refused, but must plug",
    f"{FS}/no-ap/intel-off/any/on/hot/accepts": "left behind: 1 more AddressSpace",
    f"{FS}/ap/intel-off/any/on/hot/insists": "the back-end got IOTLB messages",
    "q35/modern/vhost-user-vsock/no-ap/intel-off/any/on/hot/accepts": "plugged, but must be",
    "q35/modern/vhost-user-rng/ap/none/any/off/hot/accepts": "is offered unasked",
    f"{RNG}/on/hot/insists": "served, though the driver did not accept",
    f"{RNG}/on/hot/skips-features-ok": "served, though the driver did not accept",
    f"{RNG}/on/hot/accepts-nothing": "served, though the driver did not accept",
    f"{RNG}/off/hot/insists/moves-on": "the VM arrives, though the driver did not accept",
    f"{BLK}/on/hot/accepts/returns-without-access-platform": (
        "the back-end that came back was given what it does not offer: ACCESS_PLATFORM"
    ),
    "q35/modern/vhost-user-net/ap/none/any/on/hot/accepts/returns-without-access-platform": (
        "the back-end that came back was not told where the ring is"
    ),
    "microvm/version-1/virtio-rng/in-qemu/none/any/on/cold/legacy": "plugged, but must be",
    "s390-ccw-virtio/revision-0/virtio-rng/in-qemu/none/any/on/hot/legacy": "plugged, but must be",
    "s390-ccw-virtio/revision-2/virtio-blk/in-qemu/none/any/on/hot/reads-config-early": (
        "driver 0 (modern, at status 0) reads 0000, not 0008"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_stock_is_seen_in_its_cell_and_has_a_name(name: str) -> None:
    (result,) = carried_out(STOCK, name).values()
    assert result["verdict"] == "mismatch"
    assert FAULTS[name] in " ".join(problem["text"] for problem in result["problems"])
    assert result["gaps"]


@pytest.mark.parametrize("later", ["returns", "leaves"])
def test_stock_does_not_survive_the_loss_of_a_back_end(later: str) -> None:
    (result,) = carried_out(STOCK, f"{CRYPTO}/on/hot/accepts/{later}").values()
    assert result["gaps"] == ["lost-back-end"]


LATER = [
    f"{CRYPTO}/on/hot/accepts/returns",
    f"{BLK}/on/hot/accepts/returns-without-access-platform",
    f"{BLK}/on/hot/accepts/returns-without-version-1",
    f"{FS}/ap/intel-on/any/on/hot/accepts/leaves",
    f"{RNG}/on/hot/accepts/moves-on",
    f"{RNG}/on/hot/accepts/moves-off",
    f"{RNG}/off/hot/insists/moves-on",
    f"{RNG}/off/hot/insists/moves-on/version-9-2",
    "microvm/version-2/virtio-rng/in-qemu/none/any/on/cold/waits/moves-on",
    "s390-ccw-virtio/revision-2/virtio-rng/in-qemu/none/any/on/hot/accepts/moves-on",
]


@pytest.mark.parametrize("name", LATER)
def test_what_becomes_of_a_device_is_seen_and_matches(name: str) -> None:
    (result,) = carried_out(FORK, name).values()
    assert result["verdict"] == "match"
    seen = result["seen"]
    assert any(seen[key] is not None for key in ("arrived", "later_served", "recovered"))


# Fields of these cells' continuation that are inverted, one at a time.
SAYS = {
    LATER[1]: ("started", "served", "recovers"),
    LATER[3]: ("served",),
    LATER[4]: ("arrives", "served", "recovers"),
    LATER[6]: ("arrives",),
}


@pytest.mark.parametrize(("name", "said"), [(name, field) for name in SAYS for field in SAYS[name]])
def test_sequel_with_one_change_is_not_what_qemu_does(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    right = named(name).continuation
    assert right
    wrong: dict[str, Any] = {said: not getattr(right, said)}
    monkeypatch.setattr(Cell, "continuation", replace(right, **wrong))
    (result,) = carried_out(FORK, name).values()
    assert result["verdict"] == "mismatch"


def test_fault_that_the_queue_repairs_is_not_seen_on_the_fork() -> None:
    names = [name for name in FAULTS if name.startswith(f"{FS}/no-ap/")]
    results = carried_out(FORK, *names)
    assert verdicts(results) == dict.fromkeys(names, "match")


# The rows of the fence table: whether the bit is requested, the bus translates and the
# back-end can translate; and the interfaces that make a difference.
OFF, ON = "off/hot/accepts", "on/hot/accepts"
WORKING = {
    "not requested": f"{FS}/no-ap/none/any/{OFF}",
    "not requested, can": f"{FS}/ap/none/any/{OFF}",
    "not requested, translated": f"{FS}/no-ap/intel-off/any/{OFF}",
    "not requested, translated, can": f"{FS}/ap/intel-off/any/{OFF}",
    "requested": f"{FS}/no-ap/none/any/{ON}",
    "requested, can": f"{FS}/ap/none/any/{ON}",
    "requested, translated, can": f"{FS}/ap/intel-off/any/{ON}",
}
REFUSED = {
    "requested, translated": f"{FS}/no-ap/intel-off/any/{ON}",
    "requested, transitional": f"q35/transitional/virtio-rng/in-qemu/none/any/{ON}",
    "requested, legacy": "q35/legacy/virtio-rng/in-qemu/none/any/on/hot/legacy",
    "no VERSION_1": f"{FS}/no-version-1/none/any/{OFF}",
}
ROWS = {**WORKING, **REFUSED}
CHANGES = [
    *((row, "outcome") for row in ROWS),
    *((row, "offered") for row in WORKING),
    *((row, "translating") for row in WORKING if not row.startswith("not")),
]


def test_every_row_of_the_fence_table_is_as_it_must_be() -> None:
    results = carried_out(FORK, *ROWS.values())
    assert verdicts(results) == dict.fromkeys(ROWS.values(), "match")
    outcomes = {name: result["seen"]["outcome"] for name, result in results.items()}
    assert outcomes == {
        **dict.fromkeys(WORKING.values(), "works"),
        **dict.fromkeys(REFUSED.values(), "refused"),
    }


def other(value: Outcome | bool) -> Outcome | bool:
    """The other of the two values."""
    if isinstance(value, Outcome):
        return Outcome.REFUSED if value is Outcome.WORKS else Outcome.WORKS
    return not value


class PlugAxes(TypedDict, total=False):
    """The arguments of qap.oracle.fence.plug."""

    requested: bool
    translated: bool
    backend_can: bool
    legacy: Literal["", "also", "only"]
    version_1: bool


@pytest.mark.parametrize(("row", "changed"), CHANGES)
def test_fence_table_with_one_change_is_not_what_qemu_does(
    monkeypatch: pytest.MonkeyPatch, row: str, changed: str
) -> None:
    name = ROWS[row]
    fence = oracle.plug
    asked: dict[str, object] = {}

    def ask(**given: Unpack[PlugAxes]) -> oracle.Expectation:
        asked.update(given)
        return fence(**given)

    def change(**given: Unpack[PlugAxes]) -> oracle.Expectation:
        expectation = fence(**given)
        fields: dict[str, Any] = {changed: other(getattr(expectation, changed))}
        return replace(expectation, **fields) if given == asked else expectation

    monkeypatch.setattr(oracle, "plug", ask)
    assert named(name).config.plugging
    monkeypatch.setattr(oracle, "plug", change)
    (result,) = carried_out(FORK, name).values()
    assert result["verdict"] == "mismatch"


# Device types that have no row of their own.
COVERED_BY_AXES = re.compile(r".*-(non-)?transitional$")
LEFT_OUT = {
    "vhost-user-blk-ccw": "stock QEMU has none to hold beside it; tests/avocado/confidential_se.py",
    "vhost-user-vsock-ccw": "stock QEMU has none to hold beside it",
    "virtio-iommu-device": "a microvm has no bus that it could translate",
    "virtio-mem": "a microvm has no memory devices",
    "virtio-pmem": "a microvm has no memory devices",
}
BUSES = {
    "pci": ("x86_64", "PCI"),
    "mmio": ("x86_64", "virtio-bus"),
    "ccw": ("s390x", "virtual-css-bus"),
}


@pytest.mark.parametrize("transport", BUSES)
@pytest.mark.parametrize("build", [FORK, STOCK], ids=lambda build: build.name)
def test_every_virtio_device_of_qemu_is_in_the_matrix(build: Build, transport: str) -> None:
    """virtconsole and virtserialport are not listed: they are on virtio-serial's own bus."""
    target, bus = BUSES[transport]
    binary = build.path(f"qemu-system-{target}")
    listed = subprocess.run([binary, "-device", "help"], check=True, capture_output=True, text=True)
    there = set(re.findall(rf'^name "(v(?:irtio|host)-[^"]+)", bus {bus}\b', listed.stdout, re.M))
    configs = {cell.config for cell in cells() if cell.config.machine_row.transport == transport}
    plugged = {config.device_type for config in configs}
    assert len(there & plugged) > 12
    missing = {name for name in there - plugged if not COVERED_BY_AXES.match(name)}
    assert missing == {name for name in LEFT_OUT if name in there}
    needed = {config.device_type for config in configs if not config.skip}
    assert needed <= there
