"""A guest ejects a device that still has buffers of it: the device gives them back.

The buffers are not in RAM. QEMU copies such a buffer, and counts what it has copied for a
device: when the device's address space goes, there must be nothing left.
"""

import os
import struct
from pathlib import Path

import pytest

from qap.host.wait import poll_until
from qap.hw.acpi_hotplug import BASES, AcpiHotplug
from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.cable import Cable
from qap.verify.kit.lab import Lab
from qap.verify.kit.slot import wait_freed
from qap.verify.kit.slow_disk import throttle_group, throttled
from qap.virtio.blk import SECTOR, BlkRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.ninep import HEADER, ROOT, NineP, NinepMessage
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer

# The first I/O APIC's registers: no RAM, and reading them changes nothing.
IO_APIC = 0xFEC0_0000
GONE_S = 10.0
LOOKS = 64
# For what is under way for a second: few, as these take time, too.
FEW_LOOKS = 8
STATISTICS = 1
STATSQ = 2
SCSI_REQUESTQ = 2
RESPONSE = 108
# 5.6.6.1: target 0, LUN 0
LUN = b"\1\0\x40\0\0\0\0\0"
FRAME = 64
# More than a Unix socket holds.
FRAMES = 256
BAD_SECTOR = 4
# A disk that fails a request once it is drained, and serves nothing for long before that.
BAD_DISK = (
    "driver=null-co,node-name=null0,size=1048576,read-zeroes=on",
    "driver=blkdebug,node-name=bad0,image=null0,inject-error.0.event=none"
    f",inject-error.0.sector={BAD_SECTOR}",
    throttled("bad0"),
)
SLOW = (*throttle_group(), "-object", "iothread,id=thread0")


def driver_of(machine: Machine, device: dict[str, object], *extra: int) -> Driver:
    """Plug a device, and negotiate with it."""
    before = {function.bdf for function in PciBus(machine.qtest).scan()}
    own_space = {"disable-legacy": "on", "iommu_platform": True}
    machine.plug({**device, **own_space, "id": "dut", "bus": "port0"})
    (function,) = [
        function
        for function in PciBus(machine.qtest).scan()
        if function.vendor_id == VENDOR_ID and function.bdf not in before
    ]
    supports = MODERN | mask([FeatureBit.RING_PACKED, *extra])
    memory = GuestMemory(machine.qtest, 16 * MIB, 8 * MIB)
    driver = Driver(PciModern(function), memory, Behaviour(supports=supports))
    driver.negotiate()
    return driver


def eject(machine: Machine) -> None:
    """Take the device out, as a guest's kernel does, and wait until QEMU has freed it."""
    machine.qmp.execute("device_del", id="dut")
    assert AcpiHotplug(machine.qtest, BASES["q35"]).eject() == 1
    wait_freed(machine, GONE_S)
    machine.qmp.execute("query-status")


PACKED = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@PACKED
def test_statistics(lab: Lab, packed: bool) -> None:
    """5.5.6.3: a balloon keeps a buffer of statistics until it wants new ones."""
    machine = lab.machine(qtest=True)
    driver = driver_of(machine, {"driver": "virtio-balloon-pci", "packed": packed}, STATISTICS)
    driver.queue(0), driver.queue(1)
    queue = driver.queue(STATSQ)
    driver.start()
    queue.add([Buffer(IO_APIC, 10)])
    driver.transport.notify(STATSQ)
    assert not any(queue.take_used() for _ in range(LOOKS))
    eject(machine)


@PACKED
def test_frames(lab: Lab, packed: bool) -> None:
    """A network card has frames that its back-end does not take."""
    machine = lab.machine(extra=Cable(lab).netdev, qtest=True)
    card = {"driver": "virtio-net-pci", "netdev": "net0", "packed": packed}
    driver = driver_of(machine, card)
    driver.queue(0)
    queue = driver.queue(1, FRAMES)
    driver.start()
    header = driver.memory.take(12)
    # Until one does not come back; then one more.
    for sent in range(FRAMES):
        assert sent < FRAMES - 1
        queue.add([Buffer(header, 12), Buffer(IO_APIC, FRAME)])
        driver.transport.notify(1)
        if not any(queue.take_used() for _ in range(LOOKS)):
            break
    queue.add([Buffer(header, 12), Buffer(IO_APIC, FRAME)])
    driver.transport.notify(1)
    eject(machine)


@PACKED
@pytest.mark.parametrize("thread", [False, True])
def test_disk_request_that_fails(lab: Lab, packed: bool, thread: bool) -> None:
    """It would be tried again once the VM goes on (rerror=stop)."""
    machine = lab.machine(blockdevs=BAD_DISK, extra=SLOW, qtest=True)
    disk = {"driver": "virtio-blk-pci", "drive": "disk0", "rerror": "stop", "packed": packed}
    driver = driver_of(machine, disk | ({"iothread": "thread0"} if thread else {}))
    memory = driver.memory
    queue = driver.queue(0)
    driver.start()
    header = memory.put(struct.pack("<IIQ", BlkRequest.IN, 0, BAD_SECTOR))
    status = Buffer(memory.take(1), 1, writable=True)
    queue.add([Buffer(header, 16), Buffer(IO_APIC, SECTOR, writable=True), status])
    driver.transport.notify(0)
    assert not any(queue.take_used() for _ in range(LOOKS))
    eject(machine)
    poll_until(
        lambda: machine.qmp.execute("query-status")["status"] == "io-error" or None,
        GONE_S,
        lambda: "the request to fail",
    )


@PACKED
def test_short_sound_command(lab: Lab, packed: bool) -> None:
    """5.14.6.1: a control command has four bytes at least."""
    machine = lab.machine(extra=("-audiodev", "none,id=snd0"), qtest=True)
    device = {"driver": "virtio-sound-pci", "audiodev": "snd0", "packed": packed}
    driver = driver_of(machine, device)
    queue = driver.queue(0)
    driver.start()
    queue.add([Buffer(IO_APIC, 2), Buffer(driver.memory.take(4), 4, writable=True)])
    driver.transport.notify(0)
    eject(machine)


@PACKED
@pytest.mark.parametrize("thread", [False, True])
def test_scsi_command(lab: Lab, packed: bool, thread: bool) -> None:
    """It is cancelled."""
    machine = lab.machine(blockdevs=BAD_DISK, extra=SLOW, qtest=True)
    adapter = {"driver": "virtio-scsi-pci", "packed": packed}
    driver = driver_of(machine, adapter | ({"iothread": "thread0"} if thread else {}))
    machine.plug({"driver": "scsi-hd", "drive": "disk0", "rerror": "stop", "bus": "dut.0"})
    memory = driver.memory
    driver.queue(0), driver.queue(1)
    queue = driver.queue(SCSI_REQUESTQ)
    driver.start()
    answer = Buffer(memory.take(RESPONSE), RESPONSE, True)

    def command(cdb: bytes) -> Buffer:
        return Buffer(memory.put(LUN + bytes(11) + cdb.ljust(32, b"\0")), 51)

    # The first commands are told of what was plugged and switched on.
    for _ in range(2):
        driver.serve(queue, [command(bytes(6)), answer])
    read = b"\x28\0" + struct.pack(">I", BAD_SECTOR) + b"\0\0\1\0"
    queue.add([command(read), answer, Buffer(IO_APIC, SECTOR, True)])
    driver.transport.notify(SCSI_REQUESTQ)
    assert not any(queue.take_used() for _ in range(LOOKS))
    eject(machine)


@PACKED
def test_file_request(lab: Lab, tmp_path: Path, packed: bool) -> None:
    """A read of a share that gives 1024 bytes a second."""
    (tmp_path / "file").write_bytes(b"\xaa" * 1024)
    share = f"local,id=share0,path={tmp_path},security_model=none,throttling.bps-read=1024"
    machine = lab.machine(extra=("-fsdev", share), qtest=True)
    device = {"driver": "virtio-9p-pci", "fsdev": "share0", "mount_tag": "share", "packed": packed}
    files = NineP(driver_of(machine, device))
    files.version()
    files.attach(os.getuid())
    files.walk(ROOT, 1, "file")
    files.open(1)
    assert files.read(1, 0, 1024) == b"\xaa" * 1024
    memory, queue = files.driver.memory, files.requestq
    body = struct.pack("<IQI", 1, 0, 1024)
    sent = memory.put(HEADER.pack(HEADER.size + len(body), NinepMessage.READ, 0) + body)
    answer = Buffer(memory.take(2048), 2048, True)
    queue.add([Buffer(sent, HEADER.size + len(body)), Buffer(IO_APIC, 8), answer])
    files.driver.transport.notify(0)
    assert not any(queue.take_used() for _ in range(FEW_LOOKS))
    eject(machine)
