"""Reads that bring something else than before are no measurement."""

import pytest

from qap.host.errors import QapError
from qap.measure.config_reads import COUNTED, TIMED, ConfigReads


def test_batch_reads_as_often_as_it_says() -> None:
    left = [8] * 5
    ConfigReads(left.pop, 8, requests=5).batch()
    assert left == []


def test_capacity_that_changes_is_named() -> None:
    reads = ConfigReads(iter([8, 9]).__next__, 8, requests=2)
    with pytest.raises(QapError, match="a disk of 8 sectors now shows 9"):
        reads.batch()


def test_each_transport_is_counted_and_timed() -> None:
    names = ["virtio-blk, PCI", "virtio-blk, MMIO", "virtio-blk, CCW"]
    assert [case.name for case in COUNTED] == [case.name for case in TIMED] == names
