"""What is seen beside what must happen: each difference is found, and no other."""

from dataclasses import replace
from typing import Any

import pytest

from qap.matrix.cell import Cell
from qap.matrix.config_reading import ConfigReading
from qap.matrix.judge import ProblemKind, judge
from qap.matrix.observation import CellObservation
from qap.oracle.config import Interface, ReadingPoint
from qap.oracle.features import FeatureBit
from qap.oracle.fence import REFUSAL_PHRASE

from .matrix_cells import FS, a_cell

AP = FeatureBit.ACCESS_PLATFORM
OFFERED: list[int] = [FeatureBit.VERSION_1, AP]
UNASKED: list[int] = [FeatureBit.VERSION_1]
REFUSAL = f"vhost-user-fs-pci: {REFUSAL_PHRASE}: it can't translate"
BLK = {"device": "vhost-user-blk", "backend": "ap"}
NO_AP = {"device": "vhost-user-fs", "backend": "no-ap"}

# A driver that is served.
SERVED = CellObservation("works", features=OFFERED, features_ok=True, status=0xF, served=True)
UNASKED_SERVED = replace(SERVED, features=UNASKED)
# One that stops where FEATURES_OK does not stay, and one that does not stop.
STOPPED = CellObservation("works", features=OFFERED, features_ok=False, status=3, served=False)
STUBBORN = replace(STOPPED, status=7)
# A vhost-user back-end on a bus that does not translate, and behind an IOMMU.
FLAT = replace(SERVED, backend_features=UNASKED, ring_started=True, iotlb=0, backend_unoffered=[])
TRANSLATED = replace(FLAT, backend_features=OFFERED, iotlb=3)
UNTOLD = replace(STUBBORN, backend_features=UNASKED, ring_started=False, iotlb=0)
REFUSED = CellObservation("refused", error=REFUSAL)
COLD_REFUSED = replace(REFUSED, exit_status=1)

LITTLE, BIG = "01000000020000000300000004000000", "00000001000000020000000300000004"


def by(turn: int, interface: Interface, data: str) -> list[ConfigReading]:
    """A driver reads the same everywhere, and at last the first field alone."""
    whole = [ConfigReading(turn, interface, point, data) for point in ReadingPoint]
    return [*whole, ConfigReading(turn, interface, ReadingPoint.AFTER, data[:8])]


MATCHING: dict[str, tuple[Cell, CellObservation]] = {
    "accepts": (a_cell(), SERVED),
    "accepts, not requested": (a_cell(iommu_platform="off"), UNASKED_SERVED),
    "refuses": (a_cell("refuses"), STOPPED),
    "refuses, not requested": (a_cell("refuses", iommu_platform="off"), UNASKED_SERVED),
    "insists": (a_cell("insists"), STUBBORN),
    "insists, vhost-user": (a_cell("insists", **FS), UNTOLD),
    "vhost-user": (a_cell(**FS), FLAT),
    "vhost-user behind an IOMMU": (a_cell(**FS, viommu="intel-off"), TRANSLATED),
    "refused": (a_cell(**NO_AP, viommu="intel-off"), REFUSED),
    "refused cold": (a_cell(**NO_AP, viommu="intel-off", order="after", plug="cold"), COLD_REFUSED),
    "no VERSION_1": (
        a_cell(device="vhost-user-fs", backend="no-version-1"),
        CellObservation("refused", error="the device must offer VERSION_1"),
    ),
    "legacy interface": (
        a_cell(interface="transitional"),
        CellObservation(
            "refused", error="VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor …"
        ),
    ),
    "leaves": (a_cell(**FS, later="leaves"), replace(FLAT, later_served=False)),
    "returns": (
        a_cell(**BLK, later="returns"),
        replace(FLAT, later_started=True, later_served=True, recovered=True),
    ),
    "returns with less": (
        a_cell(**BLK, later="returns-without-version-1"),
        replace(FLAT, later_started=False, later_served=False, recovered=True),
    ),
    "moves": (
        a_cell(later="moves-on"),
        replace(SERVED, arrived=True, later_served=True, recovered=True),
    ),
    "can't move": (
        a_cell("refuses", iommu_platform="off", later="moves-on"),
        replace(UNASKED_SERVED, arrived=False, later_error="dut: iommu_platform=on: not accepted"),
    ),
    "unfenced": (a_cell("insists", fence="version-9-2"), replace(STUBBORN, served=True)),
    "reads-config-by-turns": (
        a_cell(
            "reads-config-by-turns",
            machine="s390-ccw-virtio",
            interface="revision-2",
            device="virtio-crypto",
        ),
        replace(SERVED, config=[*by(0, "modern", LITTLE), *by(1, "legacy", BIG)]),
    ),
}
DIFFERENT: list[tuple[str, dict[str, Any], ProblemKind, str]] = [
    ("accepts", {"outcome": "", "error": "waited 10 s"}, ProblemKind.ERROR, "waited 10 s"),
    ("refused", {"outcome": "", "error": "QEMU ended"}, ProblemKind.ERROR, "QEMU ended"),
    (
        "accepts",
        {"outcome": "refused", "error": REFUSAL},
        ProblemKind.REFUSED,
        f"must plug: {REFUSAL}",
    ),
    (
        "refused",
        {"outcome": "works", "error": ""},
        ProblemKind.PLUGGED,
        "plugged, but must be refused",
    ),
    ("legacy interface", {"outcome": "works"}, ProblemKind.PLUGGED, "plugged, but must be refused"),
    ("no VERSION_1", {"outcome": "works"}, ProblemKind.PLUGGED, "plugged, but must be refused"),
    ("refused", {"error": "no such bus"}, ProblemKind.MESSAGE, "another one: no such bus"),
    ("refused cold", {"exit_status": 0}, ProblemKind.MESSAGE, "status 0, not 1"),
    ("refused cold", {"exit_status": -6}, ProblemKind.MESSAGE, "status -6, not 1"),
    ("refused cold", {"error": "no such bus"}, ProblemKind.MESSAGE, "another one: no such bus"),
    ("accepts", {"features": UNASKED}, ProblemKind.OFFERED, "is not offered"),
    ("accepts, not requested", {"features": OFFERED}, ProblemKind.OFFERED, "is offered unasked"),
    ("accepts", {"features_ok": False}, ProblemKind.FEATURES_OK, "is lost"),
    ("refuses", {"features_ok": True}, ProblemKind.FEATURES_OK, "stays"),
    ("insists", {"served": True}, ProblemKind.SERVED, "served, though the driver did not accept"),
    ("accepts", {"served": False}, ProblemKind.UNSERVED, "not served, though the driver accepted"),
    ("insists, vhost-user", {"ring_started": True}, ProblemKind.RING, "told where the ring is"),
    (
        "vhost-user",
        {"backend_unoffered": [AP]},
        ProblemKind.UNOFFERED,
        "never offered: ACCESS_PLATFORM",
    ),
    ("vhost-user", {"backend_features": OFFERED}, ProblemKind.BACKEND_BIT, "was given ACCESS"),
    (
        "vhost-user behind an IOMMU",
        {"backend_features": UNASKED},
        ProblemKind.BACKEND_BIT,
        "was not given ACCESS",
    ),
    ("vhost-user", {"iotlb": 1}, ProblemKind.IOTLB, "got IOTLB messages"),
    ("vhost-user behind an IOMMU", {"iotlb": 0}, ProblemKind.IOTLB, "got no IOTLB message"),
    (
        "reads-config-by-turns",
        {"config": [*by(0, "modern", LITTLE), *by(1, "legacy", LITTLE)]},
        ProblemKind.CONFIG,
        f"driver 1 (legacy, at status 0) reads {LITTLE}, not {BIG}, and 7 more",
    ),
    (
        "reads-config-by-turns",
        {
            "config": [
                *by(0, "modern", LITTLE),
                ConfigReading(1, "modern", ReadingPoint.DRIVER, BIG[:8]),
            ]
        },
        ProblemKind.CONFIG,
        "driver 1 (modern, at DRIVER) reads 00000001, not 01000000",
    ),
    ("leaves", {"later_served": True}, ProblemKind.SERVED, "served afterwards, though only its"),
    ("leaves", {"leftovers": ["QOM x"]}, ProblemKind.LEFTOVERS, "left behind: QOM x"),
    ("returns", {"later_started": False}, ProblemKind.LOST, "was not told where the ring is"),
    ("returns", {"later_served": False}, ProblemKind.UNSERVED, "not served afterwards"),
    ("returns", {"recovered": False}, ProblemKind.LOST, "not served in the end"),
    ("returns with less", {"later_started": True}, ProblemKind.RING, "told where the ring is"),
    ("returns with less", {"later_unoffered": [32]}, ProblemKind.UNOFFERED, "not offer: VERSION_1"),
    (
        "returns with less",
        {"later_served": True},
        ProblemKind.SERVED,
        "served afterwards, though the",
    ),
    ("returns with less", {"recovered": False}, ProblemKind.LOST, "not served in the end"),
    ("moves", {"later_served": False}, ProblemKind.UNSERVED, "not served afterwards"),
    ("moves", {"recovered": False}, ProblemKind.LOST, "not served in the end"),
    (
        "moves",
        {"arrived": False, "later_error": "no room", "later_served": None, "recovered": None},
        ProblemKind.TURNED_AWAY,
        "can't move in, though the driver accepted",
    ),
    ("can't move", {"arrived": True}, ProblemKind.ARRIVED, "arrives, though the driver did not"),
    ("can't move", {"later_error": "load failed"}, ProblemKind.MESSAGE, "not name iommu_platform"),
    ("accepts", {"leftovers": ["1 AddressSpace dut"]}, ProblemKind.LEFTOVERS, "1 AddressSpace dut"),
    ("refused", {"leftovers": ["QOM /chardevs/x"]}, ProblemKind.LEFTOVERS, "QOM /chardevs/x"),
]


@pytest.mark.parametrize("name", MATCHING)
def test_what_matches_has_no_problem(name: str) -> None:
    assert judge(*MATCHING[name]) == []


@pytest.mark.parametrize(("name", "change", "kind", "text"), DIFFERENT)
def test_one_difference_is_one_problem_of_its_kind(
    name: str, change: dict[str, Any], kind: ProblemKind, text: str
) -> None:
    subject, seen = MATCHING[name]
    (problem,) = judge(subject, replace(seen, **change))
    assert problem.kind is kind
    assert text in problem.text
    assert "\n" not in problem.text


def test_every_kind_of_problem_has_a_difference_here() -> None:
    assert {kind for _, _, kind, _ in DIFFERENT} == set(ProblemKind)


def test_differences_add_up() -> None:
    subject, seen = MATCHING["insists, vhost-user"]
    every = replace(seen, features=UNASKED, features_ok=True, served=True, ring_started=True)
    kinds = {problem.kind for problem in judge(subject, every)}
    assert kinds == {
        ProblemKind.OFFERED,
        ProblemKind.FEATURES_OK,
        ProblemKind.SERVED,
        ProblemKind.RING,
    }


def test_device_that_must_be_refused_is_judged_by_what_it_told_the_back_end() -> None:
    subject, _ = MATCHING["refused"]
    told = CellObservation("works", backend_features=OFFERED, backend_unoffered=[AP], iotlb=4)
    kinds = [problem.kind for problem in judge(subject, told)]
    assert kinds == [ProblemKind.PLUGGED, ProblemKind.UNOFFERED, ProblemKind.IOTLB]


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize(
    "subject",
    [
        a_cell("legacy", machine="s390-ccw-virtio", interface="revision-2"),
        a_cell("kicks-first", iommu_platform="off"),
        a_cell("accepts-nothing", iommu_platform="off"),
    ],
    ids=lambda subject: subject.name,
)
def test_service_that_may_be_or_not_is_no_problem(subject: Cell, served: bool) -> None:
    offered = OFFERED if subject.config.requested else UNASKED
    seen = CellObservation("works", features=offered, served=served)
    assert judge(subject, seen) == []


def vdpa(viommu: str) -> Cell:
    return a_cell(device="vhost-vdpa-device", backend="kernel", viommu=viommu)


@pytest.mark.parametrize(("iotlb", "before", "wrong"), [(0, 0, True), (0, 3, False), (3, 0, False)])
def test_vdpa_device_may_be_told_of_memory_before_its_driver_begins(
    iotlb: int, before: int, wrong: bool
) -> None:
    seen = replace(TRANSLATED, iotlb=iotlb, iotlb_before=before)
    kinds = [problem.kind for problem in judge(vdpa("intel-on"), seen)]
    assert kinds == [ProblemKind.IOTLB] * wrong


@pytest.mark.parametrize("viommu", ["amd-on", "amd-off"])
@pytest.mark.parametrize(("newer", "served"), [(True, True), (False, False)])
def test_vdpa_device_is_served_where_the_viommu_is_new_enough_to_tell(
    viommu: str, newer: bool, served: bool
) -> None:
    seen = replace(TRANSLATED, newer=newer, served=served)
    assert judge(vdpa(viommu), seen) == []
    (problem,) = judge(vdpa(viommu), replace(seen, newer=not newer))
    assert problem.kind is (ProblemKind.SERVED if served else ProblemKind.UNSERVED)


def test_what_was_not_seen_is_no_problem() -> None:
    """A device in QEMU tells no back-end anything."""
    assert judge(a_cell(viommu="intel-off"), SERVED) == []
