"""A reset of the machine unplugs a device that its guest was asked to let go of."""

import struct

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import device_types, machine_types
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.oracle.features import mask
from qap.verify.kit.checks import UNPLUG_S
from qap.verify.kit.lab import Lab
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import MODERN_DEVICE_ID, PciModern
from qap.virtio.queue import Buffer

# The devices that a reset goes through by themselves, on the machines whose ACPI hot-plug
# unplugs at a reset.
CELLS = [("q35", "virtio-balloon"), ("pc", "virtio-balloon"), ("q35", "virtio-mem")]
TIMES = 3
PORTS: list[Device] = [
    {"driver": "pcie-root-port", "id": f"port{number}", "chassis": number, "slot": number}
    for number in range(3)
]
# virtio-mem (5.15)
MEM_ID = MODERN_DEVICE_ID + 24
UNPLUGGED_INACCESSIBLE = 1
PLUG = 0
BLOCK = 2 * MIB
MEMORY = ("-m", "maxmem=1G,slots=2", "-object", "memory-backend-ram,id=mem0,size=64M")


def reset(machine: Machine, *leaving: str) -> None:
    """Reset it, and wait for these devices to leave, in any order."""
    for name in leaving:
        machine.qmp.execute("device_del", id=name)
    machine.qmp.execute("system_reset")
    left = set(leaving)
    while left:
        gone = machine.qmp.wait_event(
            "DEVICE_DELETED", lambda data: data.get("device") in left, UNPLUG_S
        )
        left.remove(gone["device"])
    assert machine.alive


@pytest.mark.parametrize(("machine_type", "kind"), CELLS)
def test_device_leaves(lab: Lab, machine_type: str, kind: str) -> None:
    """Again and again: a reset after it is a reset as any other."""
    board, row = machine_types()[machine_type], device_types()[kind]
    args = [word.format(folder=lab.folder) for word in row.args]
    spec = Spec(board.name, "qtest", memory=128, devices=board.ports, extra=args, qtest=True)
    machine = lab.start("qemu-system-x86_64", spec)
    for _ in range(TIMES):
        machine.plug({"driver": row.driver("pci"), "id": "dut", **row.properties, **board.place})
        reset(machine, "dut")


def test_serial_port_leaves(lab: Lab) -> None:
    """It has a reset handler of the old kind."""
    machine = lab.machine(qtest=True)
    for _ in range(TIMES):
        machine.plug({"driver": "pci-serial", "id": "dut", "bus": "port0"})
        reset(machine, "dut")


def plug_memory(machine: Machine) -> None:
    """5.15.6.2: a driver of the device "stays" plugs what it was asked to."""
    functions = PciBus(machine.qtest).scan()
    (function,) = [each for each in functions if each.device_id == MEM_ID]
    memory = GuestMemory(machine.qtest, 16 * MIB, 8 * MIB)
    behaviour = Behaviour(supports=MODERN | mask([UNPLUGGED_INACCESSIBLE]))
    driver = Driver(PciModern(function), memory, behaviour)
    driver.negotiate()
    queue = driver.queue(0)
    driver.start()
    (start,) = struct.unpack("<Q", driver.transport.config_read(16, 8))
    request = memory.put(struct.pack("<H6xQH6x", PLUG, start, 1))
    driver.serve(queue, [Buffer(request, 24), Buffer(memory.take(10), 10, writable=True)])


def plugged(machine: Machine) -> int:
    (stays,) = machine.qmp.execute("query-memory-devices")
    size: int = stays["data"]["size"]
    return size


def test_devices_leave_together(lab: Lab) -> None:
    """What was registered after them is still reset: a virtio-mem gives its memory back."""
    spec = Spec("q35", "qtest", memory=128, devices=PORTS, extra=MEMORY, qtest=True)
    machine = lab.start("qemu-system-x86_64", spec)
    stays: Device = {"driver": "virtio-mem-pci", "bus": "port2", "memdev": "mem0"}
    for _ in range(TIMES):
        machine.plug({"driver": "virtio-balloon-pci", "id": "balloon", "bus": "port0"})
        machine.plug({"driver": "pci-serial", "id": "serial", "bus": "port1"})
        machine.plug({**stays, "id": "stays", "requested-size": BLOCK})
        plug_memory(machine)
        assert plugged(machine) == BLOCK
        reset(machine, "balloon", "serial")
        assert plugged(machine) == 0
        request = {"path": "stays", "property": "requested-size", "value": 0}
        machine.qmp.execute("qom-set", **request)
        reset(machine, "stays")
