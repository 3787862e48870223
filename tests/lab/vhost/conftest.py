"""Machines in the lab for the devices of vhost-net, vhost-vsock and vhost-scsi."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from qap.lab.kernel_device import behind
from qap.lab.l1 import L1
from qap.lab.vhost_told import VhostTold, vhost_told
from qap.machine.catalog import device_types
from qap.verify.kit.l2_bench import KINDS, L2Bench


@pytest.fixture(scope="session")
def kernel(l1: L1) -> Iterator[L1]:
    """L1 with all that the devices need behind them."""
    with ExitStack() as owned:
        for kind in KINDS:
            row = device_types()[kind].kernel
            assert row is not None
            owned.enter_context(behind(l1, row))
        yield l1


@pytest.fixture(scope="session")
def told(l1: L1) -> Iterator[VhostTold]:
    """What L1's kernel is told."""
    with vhost_told(l1) as listening:
        yield listening


@pytest.fixture(scope="session")
def benches() -> Iterator[dict[str, L2Bench]]:
    """Those that run, by vIOMMU; all end when the tests do."""
    running: dict[str, L2Bench] = {}
    try:
        yield running
    finally:
        with ExitStack() as owned:
            for bench in running.values():
                owned.push(bench)


@pytest.fixture
def bench(kernel: L1, benches: dict[str, L2Bench], viommu: str) -> L2Bench:
    """A machine with this vIOMMU, shared by all tests; one that has ended is started again."""
    old = benches.get(viommu)
    if old is not None and not old.machine.process.alive:
        benches.pop(viommu).__exit__()
        old = None
    if old is None:
        benches[viommu] = L2Bench(kernel, viommu).__enter__()
    return benches[viommu]
