"""A request that is out while its VM migrates, and whose buffer is not there any more."""

import re
import socket
import struct

import pytest

from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.iommu.driver import Iommu
from qap.iommu.find import find_iommu
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.lab import Lab
from qap.virtio.blk import SECTOR, BlkRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer
from qap.virtio.serial import FEATURE_MULTIPORT, Serial

MOVED_S = 30.0
TABLES = 64 * MIB
MEMORY = 16 * MIB
# More than QEMU copies of what is no memory.
COUNT = 32
DATA = COUNT * SECTOR
BAD_SECTOR = 4
# A disk of which a sector is bad.
BAD_DISK = (
    "driver=null-co,node-name=null0,size=1048576,read-zeroes=on",
    "driver=blkdebug,node-name=disk0,image=null0,inject-error.0.event=none"
    f",inject-error.0.sector={BAD_SECTOR}",
)
DISKS: dict[str, list[Device]] = {
    "virtio-blk": [{"driver": "virtio-blk-pci", "id": "dut", "drive": "disk0", "rerror": "stop"}],
    "virtio-scsi": [
        {"driver": "virtio-scsi-pci", "id": "dut"},
        {"driver": "scsi-hd", "drive": "disk0", "rerror": "stop", "bus": "dut.0"},
    ],
}
SERIAL: list[Device] = [
    {"driver": "virtio-serial-pci", "id": "dut"},
    {"driver": "virtserialport", "nr": 1, "chardev": "line", "bus": "dut.0"},
]
OPTIONS = {"disable-legacy": "on", "iommu_platform": True}
SCSI_REQUESTQ = 2
RESPONSE = 108
# 5.6.6.1: target 0, LUN 0
LUN = b"\1\0\x40\0\0\0\0\0"


def start(lab: Lab, devices: list[Device], packed: bool, *extra: str) -> Machine:
    first, *others = devices
    machine = lab.start(
        "qemu-system-x86_64",
        Spec(
            "q35",
            "qtest",
            memory=128,
            devices=[{"driver": "intel-iommu"}, {**first, **OPTIONS, "packed": packed}, *others],
            blockdevs=BAD_DISK,
            extra=extra,
            qtest=True,
        ),
    )
    events = [{"capability": "events", "state": True}]
    machine.qmp.execute("migrate-set-capabilities", capabilities=events)
    return machine


def mapped(machine: Machine) -> tuple[Function, Iommu]:
    """The disk's function, whose driver's memory is mapped in its IOMMU."""
    function = PciBus(machine.qtest).find(VENDOR_ID)
    iommu = find_iommu(PciBus(machine.qtest), GuestMemory(machine.qtest, TABLES, 4 * MIB))
    iommu.attach(function.bdf)
    iommu.map(function.bdf, MEMORY, MEMORY, 8 * MIB)
    iommu.enable()
    return function, iommu


def read_bad_sector(kind: str, driver: Driver, data: Buffer) -> None:
    """Have the disk read, and stop the VM as it fails."""
    memory = driver.memory
    if kind == "virtio-blk":
        queue = driver.queue(0)
        header = memory.put(struct.pack("<IIQ", BlkRequest.IN, 0, 0))
        chain = [Buffer(header, 16), data, Buffer(memory.take(1), 1, True)]
        driver.start()
    else:
        driver.queue(0), driver.queue(1)
        queue = driver.queue(SCSI_REQUESTQ)
        driver.start()
        answer = Buffer(memory.take(RESPONSE), RESPONSE, True)

        def command(cdb: bytes) -> Buffer:
            return Buffer(memory.put(LUN + bytes(11) + cdb.ljust(32, b"\0")), 51)

        # The first command is told that the disk was switched on.
        driver.serve(queue, [command(bytes(6)), answer])
        chain = [command(b"\x28" + bytes(6) + struct.pack(">H", COUNT) + b"\0"), answer, data]
    queue.add(chain)
    driver.transport.notify(queue.index)


PACKED = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


def driver_of(machine: Machine, function: Function, *extra: int) -> Driver:
    behaviour = Behaviour(supports=MODERN | mask([FeatureBit.RING_PACKED, *extra]))
    driver = Driver(PciModern(function), GuestMemory(machine.qtest, MEMORY, 4 * MIB), behaviour)
    driver.negotiate()
    return driver


def assert_refused(lab: Lab, source: Machine, destination: Machine) -> None:
    """The destination refuses the VM and goes on."""
    uri = f"unix:{lab.folder / 'migration.sock'}"
    destination.qmp.execute("migrate-incoming", uri=uri, exit_on_error=False)
    source.qmp.execute("migrate", uri=uri)
    destination.qmp.wait_event("MIGRATION", lambda found: found.get("status") == "failed", MOVED_S)
    assert re.search("virtio: (unexpected|error)", destination.process.tail())
    destination.qmp.execute("query-status")


@PACKED
@pytest.mark.parametrize("kind", DISKS)
def test_disk_request_is_not_loaded(lab: Lab, kind: str, packed: bool) -> None:
    """The request waits to be tried again (rerror=stop), and the driver unmaps its buffer."""
    source = start(lab, DISKS[kind], packed)
    function, iommu = mapped(source)
    driver = driver_of(source, function)
    data = Buffer(MEMORY + 4 * MIB, DATA, writable=True)
    read_bad_sector(kind, driver, data)
    source.qmp.wait_event("STOP", lambda _: True, MOVED_S)
    iommu.unmap(function.bdf, MEMORY + 4 * MIB, 4 * MIB)
    assert_refused(lab, source, start(lab, DISKS[kind], packed, "-incoming", "defer"))


@PACKED
def test_console_output_is_not_loaded(lab: Lab, packed: bool) -> None:
    """The host does not read the output yet, and the driver unmaps its buffer."""
    paths = [lab.folder / name for name in ("here", "there")]
    lines = [f"socket,id=line,path={path},server=on,wait=off" for path in paths]
    source = start(lab, SERIAL, packed, "-chardev", lines[0])
    lab.owned.enter_context(socket.socket(socket.AF_UNIX)).connect(str(paths[0]))
    function, iommu = mapped(source)
    driver = driver_of(source, function, FEATURE_MULTIPORT)
    port = Serial(driver, ports=2).add(1)
    output = driver.memory.take(PAGE, PAGE)
    with pytest.raises(TimeoutError, match="queue 5 to be served"):
        port.write(b"a" * 2 * MIB, timeout=1)
    iommu.unmap(function.bdf, output, MIB)
    incoming = ("-incoming", "defer", "-chardev", lines[1])
    assert_refused(lab, source, start(lab, SERIAL, packed, *incoming))
