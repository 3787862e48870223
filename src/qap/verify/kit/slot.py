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


def root_port(bus: PciBus) -> Function:
    """The machine's only pcie-root-port."""
    return bus.find(PORT_VENDOR, PORT_DEVICE)


def powered_slot(machine: Machine) -> Slot:
    """The slot of the only port, with its power on."""
    slot = Slot(root_port(PciBus(machine.qtest)))
    slot.power(True)
    return slot


def power_off(machine: Machine) -> None:
    """Take the power from the slot of the only port."""
    powered_slot(machine).power(False)


def wait_freed(machine: Machine, timeout: float = GONE_S) -> None:
    """Wait until QEMU has freed what was behind the port.

    Args:
        timeout: in seconds.
    Raises:
        TimeoutError: it was not freed.
        QemuDied: QEMU ended.
    """
    machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == DUT, timeout)
    # RCU frees it later: a device_add that fails waits for that.
    assert machine.refusal({"driver": "virtio-rng-pci", "bus": PORT, "no-such": 1}) != ""


def wait_gone(machine: Machine) -> None:
    """The same, and see that the VM runs on; raises as `wait_freed` does."""
    wait_freed(machine)
    assert machine.qmp.execute("query-status")["status"] == "running"
