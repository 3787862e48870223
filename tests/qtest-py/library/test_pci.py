"""PCI as a driver sees it: functions, BARs, hot plug and unplug."""

import pytest

from qap.hw import pci
from qap.hw.pci import Bar, Bdf, PciError, Window
from qap.hw.pci_bus import (
    ATTENTION_BUTTON_PRESSED,
    PRESENCE_DETECT_CHANGED,
    PRIMARY_BUS,
    PciBus,
    Slot,
)
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.verify.kit.lab import Lab
from qap.verify.kit.slot import NATIVE, PORT_DEVICE, PORT_VENDOR, root_port
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import PciModern
from qap.virtio.rng import Rng

RNG: Device = {"driver": "virtio-rng-pci", "id": "dut", "bus": "port0"}
SECOND_PORT: Device = {"driver": "pcie-root-port", "id": "port1", "chassis": 2, "slot": 2}
SECOND_RNG: Device = {"driver": "virtio-rng-pci", "id": "second", "bus": "port1"}
VIRTIO = 0x1AF4


def seen_by_qemu(machine: Machine, device_id: str) -> list[tuple[int, str, int, int]]:
    """Index, space, size and address of a device's mapped BARs, from QMP."""
    pending = [device for bus in machine.qmp.execute("query-pci") for device in bus["devices"]]
    while pending:
        device = pending.pop()
        pending += device.get("pci_bridge", {}).get("devices", [])
        if device["qdev_id"] == device_id:
            return [
                (region["bar"], region["type"], region["size"], region["address"])
                for region in device["regions"]
            ]
    raise AssertionError(f"query-pci knows no {device_id}")


def seen_by_driver(bars: dict[int, Bar]) -> list[tuple[int, str, int, int]]:
    return [
        (bar.index, "io" if bar.io else "memory", bar.size, bar.address) for bar in bars.values()
    ]


def test_functions_of_q35_are_found(lab: Lab) -> None:
    """On the root bus, in a multi-function device, and behind a root port."""
    bus = PciBus(lab.machine(RNG, qtest=True).qtest)
    ids = {function.bdf: (function.vendor_id, function.device_id) for function in bus.scan()}
    assert ids[Bdf(0, 0, 0)] == (0x8086, 0x29C0)
    assert ids[Bdf(0, 0x1F, 2)] == (0x8086, 0x2922)
    assert ids[Bdf(1, 0, 0)] == (VIRTIO, 0x1044)
    assert (PORT_VENDOR, PORT_DEVICE) in ids.values()


def test_scanning_again_changes_nothing(lab: Lab) -> None:
    bus = PciBus(lab.machine(RNG, qtest=True).qtest)
    first = [function.bdf for function in bus.scan()]
    assert [function.bdf for function in bus.scan()] == first


def test_bus_that_another_driver_has_numbered_is_numbered_anew(lab: Lab) -> None:
    """Also if each bridge has the number that the other one will get."""
    machine = lab.machine(RNG, SECOND_PORT, SECOND_RNG, qtest=True)
    scanned = PciBus(machine.qtest).scan()
    ports = [function for function in scanned if function.device_id == PORT_DEVICE]
    for port, number in zip(ports, (2, 1), strict=True):
        port.config_write(PRIMARY_BUS, 4, number << 16 | number << 8)
    functions = [
        function for function in PciBus(machine.qtest).scan() if function.vendor_id == VIRTIO
    ]
    assert [function.bdf for function in functions] == [Bdf(1, 0, 0), Bdf(2, 0, 0)]
    bars = [seen_by_driver(function.map_bars()) for function in functions]
    assert bars == [seen_by_qemu(machine, "dut"), seen_by_qemu(machine, "second")]


def test_bus_is_numbered_again_after_a_system_reset(lab: Lab) -> None:
    machine = lab.machine(RNG, qtest=True)
    bus = PciBus(machine.qtest)
    before = bus.find(VIRTIO)
    bars = before.map_bars()
    machine.qmp.execute("system_reset")
    machine.qmp.wait_event("RESET", lambda _: True, 10)
    after = bus.find(VIRTIO)
    assert (after.bdf, after.map_bars()) == (before.bdf, bars)
    assert seen_by_driver(bars) == seen_by_qemu(machine, "dut")


@pytest.mark.parametrize("second_port_had", [0, 1])
@pytest.mark.parametrize("depth", [1, 2])
def test_bus_behind_bridges_behind_a_port(lab: Lab, depth: int, second_port_had: int) -> None:
    """Also if another port had the number before that the first port gets now."""
    bridges: list[Device] = [
        {"driver": "pcie-pci-bridge", "id": "bridge1", "bus": "port0"},
        {"driver": "pci-bridge", "id": "bridge2", "bus": "bridge1", "addr": 2, "chassis_nr": 5},
    ]
    device = {**RNG, "bus": f"bridge{depth}", "addr": 3}
    machine = lab.machine(SECOND_PORT, SECOND_RNG, *bridges[:depth], device, qtest=True)
    last = [
        function for function in PciBus(machine.qtest).scan() if function.device_id == PORT_DEVICE
    ][-1]
    last.config_write(PRIMARY_BUS, 4, second_port_had << 16 | second_port_had << 8)
    bus = PciBus(machine.qtest)
    ports = [function.bdf for function in bus.scan() if function.device_id == PORT_DEVICE]
    assert last.bdf == ports[-1]
    functions = [function for function in bus.scan() if function.vendor_id == VIRTIO]
    assert sorted(function.bdf for function in functions) == [
        Bdf(depth + 1, 3, 0),
        Bdf(depth + 2, 0, 0),
    ]
    for function in functions:
        device_id = "second" if function.bdf.device == 0 else "dut"
        assert seen_by_driver(function.map_bars()) == seen_by_qemu(machine, device_id)


def test_two_ports_get_a_bus_and_windows_each(lab: Lab) -> None:
    machine = lab.machine(RNG, SECOND_PORT, SECOND_RNG, qtest=True)
    functions = [
        function for function in PciBus(machine.qtest).scan() if function.vendor_id == VIRTIO
    ]
    assert [function.bdf for function in functions] == [Bdf(1, 0, 0), Bdf(2, 0, 0)]
    bars = [seen_by_driver(function.map_bars()) for function in functions]
    assert bars == [seen_by_qemu(machine, "dut"), seen_by_qemu(machine, "second")]
    assert bars[0] != bars[1]


@pytest.mark.parametrize("legacy", [False, True])
def test_bars_are_where_and_as_large_as_qemu_says(lab: Lab, legacy: bool) -> None:
    """A transitional device also has an I/O BAR."""
    machine = lab.machine({**RNG, "disable-legacy": "off" if legacy else "on"}, qtest=True)
    bars = PciBus(machine.qtest).find(VIRTIO).map_bars()
    assert seen_by_driver(bars) == seen_by_qemu(machine, "dut")
    assert any(bar.io for bar in bars.values()) == legacy
    assert any(bar.wide and bar.prefetchable for bar in bars.values())


def test_capabilities_of_an_express_device(lab: Lab) -> None:
    function = PciBus(lab.machine(RNG, qtest=True).qtest).find(VIRTIO)
    ids = [capability.id for capability in function.capabilities()]
    assert ids.count(pci.CAPABILITY_VENDOR) == 5
    assert {pci.CAPABILITY_MSI_X, pci.CAPABILITY_EXPRESS} <= set(ids)


def test_missing_capability_is_named(lab: Lab) -> None:
    function = PciBus(lab.machine(RNG, qtest=True).qtest).find(VIRTIO)
    with pytest.raises(PciError, match=r"01:00\.0 has no capability 0x5"):
        function.capability(0x05)


def test_device_that_is_not_there_is_named(lab: Lab) -> None:
    bus = PciBus(lab.machine(qtest=True).qtest)
    with pytest.raises(PciError, match="0 functions of vendor 0x1af4"):
        bus.find(VIRTIO)


def test_full_window_is_an_error() -> None:
    window = Window(0x1000, 0x3000)
    assert [window.take(0x800, 0x1000, "a"), window.take(0x1000, 0x1000, "b")] == [0x1000, 0x2000]
    assert window.take(0x800, 0x1000, "a") == 0x1000
    with pytest.raises(PciError, match="no room for 0x1 bytes"):
        window.take(1, 1, "c")


def test_msi_x_message_is_a_word_in_memory(lab: Lab) -> None:
    """When a queue is served, the device writes the vector's data to the vector's address."""
    qtest = lab.machine(RNG, qtest=True).qtest
    transport = PciModern(PciBus(qtest).find(VIRTIO))
    memory = GuestMemory(qtest)
    messages = [memory.take(4), memory.take(4)]
    transport.function.enable_msi_x(transport.bars, [(messages[0], 0x1111), (messages[1], 0xCAFE)])
    driver = Driver(transport, memory)
    driver.negotiate()
    transport.set_queue_vector(0, 1)
    assert [qtest.readl(address) for address in messages] == [0, 0]
    Rng(driver).read(8)
    assert [qtest.readl(address) for address in messages] == [0, 0xCAFE]


def test_device_has_only_so_many_vectors(lab: Lab) -> None:
    function = PciBus(lab.machine(RNG, qtest=True).qtest).find(VIRTIO)
    with pytest.raises(PciError, match="MSI-X vectors"):
        function.enable_msi_x(function.map_bars(), [(0, 0)] * 100)


def test_hot_plugged_device_is_found(lab: Lab) -> None:
    machine = lab.machine(qtest=True)
    bus = PciBus(machine.qtest)
    assert VIRTIO not in [function.vendor_id for function in bus.scan()]
    machine.plug(RNG)
    assert bus.find(VIRTIO).bdf == Bdf(1, 0, 0)


def test_native_hot_plug_as_its_driver_sees_it(lab: Lab) -> None:
    """Attention button, power, device; for unplug the driver turns off the power first."""
    machine = lab.machine(qtest=True, extra=NATIVE)
    bus = PciBus(machine.qtest)
    bus.scan()
    slot = Slot(root_port(bus))
    assert not slot.occupied
    for _ in range(2):
        machine.plug(RNG)
        assert slot.occupied
        assert slot.acknowledge() & PRESENCE_DETECT_CHANGED
        slot.power(True)
        assert bus.find(VIRTIO).map_bars()
        machine.qmp.execute("device_del", id="dut")
        assert slot.acknowledge() & ATTENTION_BUTTON_PRESSED
        assert slot.occupied
        slot.power(False)
        deleted = machine.qmp.wait_event(
            "DEVICE_DELETED", lambda data: data.get("device") == "dut", 10
        )
        assert deleted["device"] == "dut"
        assert not slot.occupied
        slot.acknowledge()


def test_device_in_an_unpowered_slot_does_not_answer(lab: Lab) -> None:
    machine = lab.machine(qtest=True, extra=NATIVE)
    bus = PciBus(machine.qtest)
    bus.scan()
    machine.plug(RNG)
    with pytest.raises(PciError, match="0 functions"):
        bus.find(VIRTIO)
    Slot(root_port(bus)).power(True)
    assert bus.find(VIRTIO)
