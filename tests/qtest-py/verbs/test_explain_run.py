"""What explain predicts is what stock QEMU and the fork do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qap.explain.backend import told
from qap.explain.explanation import Explanation, explain
from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.oracle.fence import Outcome
from qap.scenario.rerun import OTHER, Rerun, problems, rerun
from qap.scenario.smallest import Smallest, lines, smallest
from qap.verify.kit.lab import Lab
from qap.verify.kit.random_topology import topology

SEEDS = 500
CHUNK = 25
NOWHERE = Path("/nowhere")
Run = Callable[[Explanation], list[Rerun]]


def explained(seed: int) -> Explanation:
    made = topology(seed)
    known = dict(told(one) for one in made.backends)
    return explain(made.text.encode(), f"seed {seed}", NOWHERE, known)


@pytest.fixture
def least(lab: Lab, other: Build) -> Callable[[str], Smallest]:
    """The smallest machine of a line."""
    base, fork = sorted([lab.build, other], key=lambda build: not build.is_base)
    return lambda line: smallest(explain(line.encode(), "it", NOWHERE, {}), base, fork)


@pytest.fixture
def run(lab: Lab, other: Build) -> Run:
    """Runs an explanation on stock QEMU and on the fork."""
    base, fork = sorted([lab.build, other], key=lambda build: not build.is_base)
    return lambda explanation: rerun(explanation, base, fork)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_prediction_comes_true(first: int, run: Run) -> None:
    wrong = []
    for seed in range(first, first + CHUNK):
        explanation = explained(seed)
        assert explanation.left == []
        done = run(explanation)
        found = list(problems(done))
        found += [one.said for one in done if one.said.startswith(OTHER)]
        if found:
            made = topology(seed)
            wrong += [f"seed {seed}:", *found, made.text, f"backends: {made.backends}"]
    assert not wrong, "\n".join(wrong)


def test_topologies_have_every_outcome_and_most_are_run() -> None:
    """That nothing differs tells something only if much is tried."""
    ends = set()
    for seed in range(SEEDS):
        for one in explained(seed).predictions:
            for verdict in one.verdicts:
                ends.add((verdict.on_stock.outcome, verdict.plugged.outcome, one.kind.transport))
    works, refused = Outcome.WORKS, Outcome.REFUSED
    assert ends >= {
        (works, works, "pci"),
        (refused, works, "pci"),
        (works, refused, "pci"),
        (refused, refused, "pci"),
        (works, works, "mmio"),
        (works, refused, "mmio"),
        (works, works, "ccw"),
        (works, refused, "ccw"),
    }


LINE = "qemu-system-x86_64 -nodefaults -M q35 -device virtio-rng-pci,id=rng0"


def test_device_that_the_build_lacks_is_not_run(run: Run) -> None:
    line = LINE.replace("virtio-rng-pci", "virtio-gpu-gl-pci")
    done = run(explain(line.encode(), "it", NOWHERE, {}))
    assert [(one.seen, one.said) for one in done] == [(None, "the build has no such device")] * 2


def test_machine_that_does_not_start_is_no_refusal_of_the_device(run: Run) -> None:
    line = f"{LINE} -device pcie-root-port,id=a -device pcie-root-port,id=b"
    done = run(explain(line.encode(), "it", NOWHERE, {}))
    assert {one.seen for one in done} == {None}
    assert all(one.said.startswith(OTHER) for one in done)
    assert all("chassis" in one.said for one in done)


def test_wrong_prediction_is_told(run: Run) -> None:
    explanation = explain(LINE.encode(), "it", NOWHERE, {})
    (first, _) = run(explanation)
    wrong = replace(first, expected=Outcome.REFUSED)
    assert list(problems([first])) == []
    assert list(problems([wrong])) == ["rng0 on base: predicted refused, came to works: "]


FS = "-chardev socket,id=c,path=/run/c -device vhost-user-fs-pci,chardev=c,tag=t,id=fs0"
PRIVATE = (
    "qemu-system-x86_64 -nodefaults -M pc-q35-9.2,default-bus-bypass-iommu=off "
    "-device pcie-root-port,id=rp0 -device pxb-pcie,id=p,bus_nr=32"
)
WHOLE = f"{PRIVATE} -object memory-backend-memfd,id=m,size=1G -machine memory-backend=m"


@pytest.mark.parametrize(
    ("line", "drivers", "properties", "ends"),
    [
        (
            f"{WHOLE} {FS},iommu_platform=on,bus=rp0",
            ["vhost-user-fs-pci"],
            {"iommu_platform"},
            (Outcome.REFUSED, Outcome.WORKS),
        ),
        (
            f"{WHOLE} -device intel-iommu,intremap=on {FS},iommu_platform=on,bus=rp0",
            ["intel-iommu", "vhost-user-fs-pci"],
            {"iommu_platform"},
            (Outcome.REFUSED, Outcome.REFUSED),
        ),
        (
            f"{PRIVATE} -device intel-iommu {FS},bus=rp0",
            ["vhost-user-fs-pci"],
            set(),
            (Outcome.WORKS, Outcome.REFUSED),
        ),
        (
            f"{WHOLE} -device virtio-rng-pci,id=r,bus=rp0,iommu_platform=on,disable-legacy=off",
            ["virtio-rng-pci"],
            {"iommu_platform"},
            (Outcome.REFUSED, Outcome.REFUSED),
        ),
    ],
)
def test_what_does_not_matter_is_left_out(
    line: str,
    drivers: list[str],
    properties: set[str],
    ends: tuple[Outcome, Outcome],
    least: Callable[[str], Smallest],
) -> None:
    found = least(line)
    spec = found.pair.fork.spec
    assert (found.base, found.fork) == ends
    assert [device["driver"] for device in spec.devices] == drivers
    assert spec.machine == "q35"
    assert {"iommu_platform", "disable-legacy", "id", "bus"} & set(spec.devices[-1]) == properties


def test_smallest_machine_is_a_line_and_what_qmp_is_told(least: Callable[[str], Smallest]) -> None:
    line = f"{WHOLE} -device amd-iommu\n(qemu) device_add vhost-user-fs-pci,id=f,bus=rp0,"
    found = least(line + "chardev=c,iommu_platform=on")
    daemon, qemu, greeting, plug = lines(found, "x86_64")
    assert daemon == "virtiofsd --socket-path=back-end --shared-dir=. &"
    assert "/tmp" not in qemu
    assert json.loads(greeting) == {"execute": "qmp_capabilities"}
    assert json.loads(plug)["arguments"] == {
        "driver": "vhost-user-fs-pci",
        "bus": "rp0",
        "iommu_platform": True,
        "tag": "share",
        "chardev": "back-end",
    }


def test_nothing_to_make_smaller(least: Callable[[str], Smallest]) -> None:
    with pytest.raises(UsageError, match="no device that can be run is refused"):
        least(LINE)
