"""A device in a PCIe slot from which a driver takes the power (PCIe 6.7.1.5)."""

from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus, Slot
from qap.machine.machine import Machine

# Slots are powered by registers of their port, rather than by ACPI.
NATIVE = ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
# The bus behind the port, and the device in it.
PORT, DUT = "port0", "dut"
# pcie-root-port
PORT_VENDOR, PORT_DEVICE = 0x1B36, 0x000C
GONE_S = 20.0


def in_slot(machine: Machine, vendor: int, device: int) -> Function:
    """The only function of these IDs that is not on the root bus."""
    (function,) = [
        function
        for function in PciBus(machine.qtest).scan()
        if (function.vendor_id, function.device_id) == (vendor, device) and function.bdf.bus
    ]
    return function


def power_off(machine: Machine) -> None:
    """Take the power from the slot of the only port."""
    slot = Slot(PciBus(machine.qtest).find(PORT_VENDOR, PORT_DEVICE))
    slot.power(True)
    slot.power(False)


def wait_gone(machine: Machine) -> None:
    """Wait until QEMU has freed what was in the slot, and see that it runs on.

    Raises:
        TimeoutError: it was not freed.
        QemuDied: QEMU ended.
    """
    machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == DUT, GONE_S)
    # RCU frees it later: a device_add that fails waits for that.
    assert machine.refusal({"driver": "virtio-rng-pci", "bus": PORT, "no-such": 1}) != ""
    assert machine.qmp.execute("query-status")["status"] == "running"
