"""The kernel lab, with all that cells need of it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from qap.fork.build import Build
from qap.lab.kernel_device import behind
from qap.lab.l1 import L1
from qap.lab.vhost_told import Told, VhostTold, vhost_told
from qap.matrix.cell import Cell


@dataclass
class CellLab:
    """Where cells are carried out whose devices the kernel serves, one after another.

    Attributes:
        told: what the kernel is told.
        iotlb_before: how many IOTLB messages it got of a device since that was plugged, before the
            driver that began last.
    """

    l1: L1
    told: VhostTold
    iotlb_before: int = 0

    def forget(self) -> None:
        """Forget what was said so far: another device is plugged."""
        self.told.take()
        self.iotlb_before = 0

    def begin(self) -> None:
        """A driver begins: what was said so far is of the plug, or of the driver before."""
        self.iotlb_before += self.told.take().iotlb

    def take(self) -> Told:
        """What was said since the driver began."""
        heard = self.told.take()
        self.iotlb_before += heard.iotlb
        return heard


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
