"""Fixtures for vDPA devices: an L1 with two NICs for vp_vdpa."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from qap.fork.build import Build
from qap.lab.l1 import L1
from qap.verify.kit.vdpa_site import BARE, FULL, Site, Start, nic


@pytest.fixture(scope="session")
def l1() -> Iterator[L1]:
    """L1, for the build under test."""
    devices = [nic(BARE), nic(FULL, iommu_platform=True)]
    with L1(Build.under_test(), devices=devices) as running:
        # vhost-vdpa keeps each run of adjacent pages by itself, up to 2048 of them by default.
        running.check("rmmod vhost_vdpa; insmod /modules/vhost_vdpa.ko max_iotlb_entries=65536")
        yield running


@pytest.fixture
def site(l1: L1) -> Iterator[Start]:
    """Makes vDPA devices by name; they and their L2s end with the test."""
    with ExitStack() as owned:
        yield lambda name: owned.enter_context(Site(l1, name))
