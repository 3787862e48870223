"""Cells and lists of known gaps, made by hand for a test."""

from pathlib import Path

import pytest

from qap.matrix import gaps, run, summary
from qap.matrix.cell import Cell
from qap.matrix.setup import NO_ORDER, Setup

PLAIN = {
    "machine": "q35",
    "interface": "modern",
    "device": "virtio-rng",
    "backend": "in-qemu",
    "viommu": "none",
    "order": NO_ORDER,
    "iommu_platform": "on",
    "plug": "hot",
}
UNCACHED_GAPS = gaps.gaps.__wrapped__
FS = {"device": "vhost-user-fs", "backend": "ap"}


def a_cell(driver: str = "accepts", **axes: str) -> Cell:
    """A hot-plugged virtio-rng with iommu_platform=on and no vIOMMU, but for `axes`."""
    return Cell(Setup(**{**PLAIN, **axes}), driver)


def use_gaps(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> None:
    """Let `text` be the list of known gaps until the test ends."""
    path.write_text(text)
    monkeypatch.setattr(gaps, "PATH", path)
    for module in (gaps, run, summary):
        monkeypatch.setattr(module, "gaps", UNCACHED_GAPS)
