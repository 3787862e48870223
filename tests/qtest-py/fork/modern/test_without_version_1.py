"""virtio-mmio's version 2 is for drivers that accept VERSION_1 (virtio 1.3, 4.2.2 and 6.1)."""

import pytest

from qap.machine.catalog import vhost_user_types
from qap.matrix.cell import named
from qap.matrix.group import Group
from qap.matrix.result import CellResult
from qap.verify.kit.lab import Lab

KINDS = [name for name, kind in vhost_user_types().items() if "mmio" in kind.transports]


@pytest.mark.parametrize("asked", ["on", "off"])
@pytest.mark.parametrize("kind", KINDS)
def test_mmio_takes_no_device_that_offers_no_interface(lab: Lab, kind: str, asked: str) -> None:
    assert problems(lab, f"{kind}/no-version-1/none/any/{asked}") == []


@pytest.mark.parametrize("kind", KINDS)
def test_mmio_takes_a_device_that_offers_it(lab: Lab, kind: str) -> None:
    assert problems(lab, f"{kind}/no-ap/none/any/on") == []


def problems(lab: Lab, cell: str) -> list[str]:
    """What goes otherwise than the fence table says for this cell of version 2."""
    results: list[CellResult] = []
    wanted = named(f"microvm/version-2/{cell}/cold/accepts")
    Group(lab.build, [wanted], results.append, debug=False).run()
    return [problem.text for result in results for problem in result.problems]
