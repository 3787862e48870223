"""What explain says of a cell's command line is what the matrix expects of the plug."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from qap.explain.backend import Told
from qap.explain.explanation import Explanation, explain
from qap.explain.prediction import Prediction
from qap.machine.device import Device
from qap.matrix.cell import cells, matches_axes
from qap.matrix.command_line import (
    CHARDEV,
    DUT,
    backend_args,
    device_under_test,
    in_slot,
    machine_spec,
)
from qap.matrix.gaps import gaps
from qap.matrix.setup import Setup
from qap.oracle.fence import Outcome

FOLDER = Path("/scratch")
SOCKET = FOLDER / "backend.sock"
SETUPS = tuple(dict.fromkeys(cell.config for cell in cells()))
# Machine and device, so that a failure tells where it is and one test is not ten thousand.
GROUPS = sorted({(setup.machine, setup.device) for setup in SETUPS})


def device_of(setup: Setup) -> Device:
    lenient = not setup.fence_row.here and not setup.fence_row.version
    device = device_under_test(setup, lenient=lenient)
    return in_slot(setup, device) if setup.plug == "cold" else device


def text_of(setup: Setup) -> str:
    """A shell line, and the device_add after it if the device is hot-plugged."""
    device = device_of(setup)
    cold = setup.plug == "cold"
    args = backend_args(setup, SOCKET) if setup.device_row.vhost_user else []
    spec = machine_spec([setup], FOLDER, device if cold else None, args)
    words = [f"/usr/bin/qemu-system-{setup.machine_row.qemu}", *spec.argv()]
    told = {"execute": "device_add", "arguments": dict(device)}
    return shlex.join(words) + "\n" + ("" if cold else json.dumps(told) + "\n")


def told_of(setup: Setup) -> Mapping[str, Told]:
    if setup.device == "vhost-vdpa-device":
        return {DUT: Told(offers=setup.can_translate)}
    if setup.device_row.vhost_user is None:
        return {}
    row = setup.backend_row
    return {CHARDEV: Told(row.access_platform, row.version_1, row.lacks)}


def explained(setup: Setup, folder: Path) -> tuple[Explanation, Prediction]:
    explanation = explain(text_of(setup).encode(), "the cell", folder, told_of(setup))
    (prediction,) = [one for one in explanation.predictions if one.item.id == DUT]
    return explanation, prediction


@pytest.mark.parametrize(("machine", "device"), GROUPS)
def test_prediction_is_the_expectation_of_the_matrix(
    machine: str, device: str, tmp_path: Path
) -> None:
    (tmp_path / "s390x").mkdir()
    for setup in SETUPS:
        if (setup.machine, setup.device) != (machine, device):
            continue
        explanation, found = explained(setup, tmp_path)
        expected = setup.plugging
        (verdict,) = found.verdicts
        assert explanation.left == [], setup
        assert (found.requested, found.translation.translated) == (
            setup.requested,
            setup.translated or setup.device_row.iommu,
        ), setup
        assert (verdict.plugged.outcome, verdict.plugged.offered) == (
            expected.outcome,
            expected.offered,
        ), setup
        if setup.device != "vhost-vdpa-device":
            assert verdict.plugged == expected, setup


# The faults of stock QEMU that a plug shows, and what is seen of them (configs/gaps.toml).
AT_PLUG = {Outcome.WORKS: "refused", Outcome.REFUSED: "plugged"}


def test_stock_differs_only_by_faults_that_are_known(tmp_path: Path) -> None:
    seen = set()
    for cell in {cell.config: cell for cell in cells()}.values():
        if cell.config.fence_row.version or not cell.config.fence_row.here:
            continue
        _, found = explained(cell.config, tmp_path)
        (verdict,) = found.verdicts
        if found.missing or verdict.on_stock.outcome is verdict.plugged.outcome:
            continue
        kind = AT_PLUG[verdict.plugged.outcome]
        known = [
            gap.name
            for gap in gaps()
            if kind in gap.kinds and any(matches_axes(cell.axes, one) for one in gap.cells)
        ]
        if cell.config.device_row.iommu:
            known.append("an IOMMU behind itself")
        if cell.config.backend_row.lacks:
            known.append("a back-end without the means to translate")
        assert known, cell.name
        seen.add(known[0])
    assert seen == {
        "plug-check",
        "fence-hole",
        "scsi-exit",
        "legacy-bypass",
        "no-version-1",
        "an IOMMU behind itself",
        "a back-end without the means to translate",
    }


def test_matrix_has_every_kind_of_outcome() -> None:
    outcomes = {setup.plugging.outcome for setup in SETUPS}
    assert outcomes == {Outcome.WORKS, Outcome.REFUSED}
    assert len(SETUPS) > 1000
