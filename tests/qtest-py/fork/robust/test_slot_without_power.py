"""A guest takes the power from a slot with a card in it that QEMU can't unplug.

A port does what the guest tells it to (PCIe 6.7.1.5) only where ACPI hot-plug is off.
"""

import pytest

from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.verify.kit.checks import assert_lives, reset_machine
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern

NATIVE = ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
# pcie-root-port
PORT_VENDOR, PORT_DEVICE = 0x1B36, 0x000C
# PCIe 7.5.3.10: Slot Control, with its power indicator and power controller.
CAPABILITY_EXPRESS, SLOT_CONTROL = 0x10, 0x18
INDICATOR_ON, INDICATOR_OFF, POWER_OFF = 1 << 8, 3 << 8, 1 << 10


def switch(port: Function, value: int) -> None:
    port.config_write(port.capability(CAPABILITY_EXPRESS).offset + SLOT_CONTROL, 2, value)


@pytest.mark.parametrize("kind", ["virtio-gpu", "virtio-vga", "vhost-user-gpu", "vhost-user-vga"])
def test_card_that_is_not_hot_pluggable_stays(lab: Lab, kind: str) -> None:
    """It works again once the slot has power."""
    row = device_types()[kind]
    card: dict[str, object] = {
        "driver": row.driver("pci"),
        **row.properties,
        "id": "dut",
        "bus": "port0",
    }
    if row.vhost_user:
        card["chardev"] = lab.backend(kind).path.stem
    machine = lab.machine(card, extra=NATIVE, qtest=True)

    def drive() -> None:
        bus = PciBus(machine.qtest)
        function = bus.find(VENDOR_ID)
        driver = Driver(PciModern(function), GuestMemory(machine.qtest, 16 * MIB))
        driver.negotiate()
        driver.queue(0)
        driver.start()
        driver.transport.notify(0)

    drive()
    port = PciBus(machine.qtest).find(PORT_VENDOR, PORT_DEVICE)
    switch(port, INDICATOR_ON)
    switch(port, POWER_OFF | INDICATOR_OFF)
    assert_lives(machine)
    switch(port, INDICATOR_ON)
    drive()
    reset_machine(machine)
    assert_lives(machine)
