"""Fixtures for vDPA devices."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from qap.lab.l1 import L1
from qap.verify.kit.vdpa_site import Site, Start


@pytest.fixture(scope="session")
def roomy(l1: L1) -> L1:
    """L1, where vhost-vdpa keeps more runs of adjacent pages than the 2048 of its default."""
    l1.check("rmmod vhost_vdpa; insmod /modules/vhost_vdpa.ko max_iotlb_entries=65536")
    return l1


@pytest.fixture
def site(roomy: L1) -> Iterator[Start]:
    """Makes vDPA devices by name; they and their L2s end with the test."""
    with ExitStack() as owned:
        yield lambda name: owned.enter_context(Site(roomy, name))
