"""The kernel lab, with all that cells need of it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from qap.fork.build import Build
from qap.lab.kernel_device import behind
from qap.lab.l1 import L1
from qap.lab.vhost_told import VhostTold, vhost_told
from qap.matrix.cell import Cell


@dataclass(frozen=True)
class CellLab:
    """Where cells are carried out whose devices the kernel serves, one after another.

    Attributes:
        told: what the kernel is told.
    """

    l1: L1
    told: VhostTold


@contextmanager
def cell_lab(build: Build, cells: Sequence[Cell]) -> Iterator[CellLab]:
    """A lab for these cells, until the context ends.

    Raises:
        QapError, TimeoutError: L1 did not come up, or lacks something.
    """
    rows = {cell.config.device: cell.config.device_row for cell in cells}.values()
    with ExitStack() as owned:
        l1 = owned.enter_context(L1(build))
        for row in rows:
            if row.kernel:
                owned.enter_context(behind(l1, row.kernel))
        told = owned.enter_context(vhost_told(l1))
        for row in rows:
            if row.kernel:
                told.offered(row.node)
        yield CellLab(l1, told)
