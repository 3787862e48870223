"""A guest takes the power from a slot with a card in it that QEMU can't unplug.

A PCIe port does what the guest tells it to (PCIe 6.7.1.5) only where ACPI hot-plug is off. A PCI
bridge has a Standard Hot-Plug Controller (SHPC 1.0) for its slots.
"""

import pytest

from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.checks import assert_lives, reset_machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.slot import NATIVE, PORT_VENDOR, root_port
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern

# PCIe 7.5.3.10: Slot Control, with its power indicator and power controller.
CAPABILITY_EXPRESS, SLOT_CONTROL = 0x10, 0x18
INDICATOR_ON, INDICATOR_OFF, POWER_OFF = 1 << 8, 3 << 8, 1 << 10
# pci-bridge, and SHPC 4.9: in the registers of its first BAR, a command, which says what becomes of
# a slot and of its power indicator, and of which slot.
BRIDGE_DEVICE = 0x0001
COMMAND = 0x14
ENABLED, DISABLED, LED_ON, LED_OFF = 2, 3, 1 << 2, 3 << 2
SLOT = 1 << 8
KINDS = ["virtio-gpu", "virtio-vga", "vhost-user-gpu", "vhost-user-vga"]


def switch(port: Function, value: int) -> None:
    port.config_write(port.capability(CAPABILITY_EXPRESS).offset + SLOT_CONTROL, 2, value)


def command(machine: Machine, registers: int, code: int) -> None:
    machine.qtest.writew(registers + COMMAND, SLOT | code)


def card(lab: Lab, kind: str, **place: object) -> Device:
    row = device_types()[kind]
    device = {"driver": row.driver("pci"), **row.properties, "id": "dut", **place}
    return {**device, "chardev": lab.backend(kind).path.stem} if row.vhost_user else device


def drive(machine: Machine) -> None:
    function = PciBus(machine.qtest).find(VENDOR_ID)
    driver = Driver(PciModern(function), GuestMemory(machine.qtest, 16 * MIB))
    driver.negotiate()
    driver.queue(0)
    driver.start()
    driver.transport.notify(0)


@pytest.mark.parametrize("kind", KINDS)
def test_card_that_is_not_hot_pluggable_stays(lab: Lab, kind: str) -> None:
    """It works again once the slot has power."""
    machine = lab.machine(card(lab, kind, bus="port0"), extra=NATIVE, qtest=True)
    drive(machine)
    port = root_port(PciBus(machine.qtest))
    switch(port, INDICATOR_ON)
    switch(port, POWER_OFF | INDICATOR_OFF)
    assert_lives(machine)
    switch(port, INDICATOR_ON)
    drive(machine)
    reset_machine(machine)
    assert_lives(machine)


def test_nothing_leaves_a_slot_with_a_card_that_stays(lab: Lab) -> None:
    """Without its function 0, no guest finds the other one again."""
    slot = {"bus": "port0", "addr": "0.0", "multifunction": True}
    other = {"driver": "virtio-rng-pci", "id": "other", **slot}
    stays = card(lab, "virtio-gpu", bus="port0", addr="0.1")
    machine = lab.machine(other, stays, extra=NATIVE, qtest=True)
    functions = len(PciBus(machine.qtest).scan())
    port = root_port(PciBus(machine.qtest))
    switch(port, INDICATOR_ON)
    switch(port, POWER_OFF | INDICATOR_OFF)
    switch(port, INDICATOR_ON)
    assert len(PciBus(machine.qtest).scan()) == functions


@pytest.mark.parametrize("kind", KINDS)
def test_card_behind_a_bridge_stays(lab: Lab, kind: str) -> None:
    bridge: Device = {"driver": "pci-bridge", "id": "bridge", "chassis_nr": 1, "shpc": True}
    machine = lab.machine(bridge, card(lab, kind, bus="bridge", addr="1"), qtest=True)
    drive(machine)
    registers = PciBus(machine.qtest).find(PORT_VENDOR, BRIDGE_DEVICE).map_bars()[0].address
    command(machine, registers, DISABLED | LED_OFF)
    assert_lives(machine)
    command(machine, registers, ENABLED | LED_ON)
    drive(machine)
    reset_machine(machine)
    assert_lives(machine)
