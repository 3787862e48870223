"""Fixtures for vDPA devices."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from qap.lab.l1 import L1
from qap.verify.kit.vdpa_site import Made, MadeOnce, Site, Start


@pytest.fixture(scope="session")
def roomy(l1: L1) -> L1:
    """L1, where vhost-vdpa keeps more runs of adjacent pages than the 2048 of its default."""
    l1.check("rmmod vhost_vdpa; insmod /modules/vhost_vdpa.ko max_iotlb_entries=65536")
    return l1


@pytest.fixture(scope="session")
def made_once(roomy: L1) -> Iterator[MadeOnce]:
    with MadeOnce(roomy) as kept:
        yield kept


@pytest.fixture
def site(made_once: MadeOnce) -> Iterator[Start]:
    """Finds vDPA devices by name; their L2s end with the test."""
    with ExitStack() as owned:
        yield lambda name: owned.enter_context(Site(name, made_once.take(name)))


@pytest.fixture
def own_site(made_once: MadeOnce) -> Iterator[Start]:
    """Makes vDPA devices that a test changes; they and their L2s end with it."""

    def start(name: str) -> Site:
        made_once.give_up(name)
        made = owned.enter_context(Made(made_once.l1, name.split(maxsplit=1)[0]))
        return owned.enter_context(Site(name, made))

    with ExitStack() as owned:
        yield start
