"""Fixtures: serial ports that can migrate, and QEMUs in L1 that take them.

For test modules that need them, as `pytest_plugins`; they need the fixture `l1`, too.
"""

from collections.abc import Iterator

import pytest

from qap.lab.l1 import L1
from qap.lab.migration_layer import MigrationLayer, Rules
from qap.lab.mtty import Mtty, mttys
from qap.lab.mtty_machine import MUCH_RAM_MIB, MttyMachine

PORTS = 4


@pytest.fixture(scope="module")
def all_ports(l1: L1) -> Iterator[list[Mtty]]:
    with mttys(l1, PORTS) as made:
        yield made


@pytest.fixture(scope="module")
def whole_layer(l1: L1) -> Iterator[MigrationLayer]:
    with MigrationLayer(l1) as layer:
        yield layer


@pytest.fixture(scope="module")
def kept_machine(whole_layer: MigrationLayer) -> Iterator[MttyMachine]:
    with MttyMachine(whole_layer) as machine:
        yield machine


@pytest.fixture
def ports(all_ports: list[Mtty], whole_layer: MigrationLayer) -> list[Mtty]:
    """Ports that are as the kernel has them."""
    for port in all_ports:
        whole_layer.rule(port, Rules())
    return all_ports


@pytest.fixture
def layer(whole_layer: MigrationLayer, ports: list[Mtty]) -> MigrationLayer:
    """The layer, with nothing recorded yet."""
    whole_layer.forget()
    return whole_layer


@pytest.fixture
def machine(kept_machine: MttyMachine, all_ports: list[Mtty]) -> Iterator[MttyMachine]:
    """A running VM that gives its ports back after the test."""
    yield kept_machine
    kept_machine.recover()
    there = {
        device["qdev_id"]
        for bus in kept_machine.qmp.execute("query-pci")
        for device in bus["devices"]
    }
    kept_machine.give_back(*[port for port in all_ports if port.name in there])


@pytest.fixture
def own_machine(layer: MigrationLayer) -> Iterator[MttyMachine]:
    """A VM for one test, which may end its QEMU."""
    with MttyMachine(layer) as machine:
        yield machine


@pytest.fixture
def slow_machine(layer: MigrationLayer) -> Iterator[MttyMachine]:
    """A VM for one test, whose device is read several times in pre-copy."""
    with MttyMachine(layer, memory=MUCH_RAM_MIB) as machine:
        yield machine


@pytest.fixture
def slow_destination(layer: MigrationLayer) -> Iterator[MttyMachine]:
    """A QEMU that such a VM can migrate to."""
    with MttyMachine(layer, "-incoming", "defer", memory=MUCH_RAM_MIB) as machine:
        yield machine


@pytest.fixture
def destination(layer: MigrationLayer) -> Iterator[MttyMachine]:
    """A QEMU that a VM can migrate to."""
    with MttyMachine(layer, "-incoming", "defer") as machine:
        yield machine
