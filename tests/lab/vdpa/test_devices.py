"""vDPA devices come and go while an L2 runs."""

import struct

import pytest

from qap.hw.acpi_hotplug import BASES, AcpiHotplug
from qap.machine.qmp import QmpRefused
from qap.oracle.features import mask
from qap.verify.kit.vdpa_site import CONTENT, OFFERING, Start, plugged
from qap.virtio.blk import SECTOR, Blk, BlkRequest
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.net import Net
from qap.virtio.queue import Buffer

GONE_S = 20.0
BACK_S = 30.0
# Network control queue, virtio 1.3, 5.1.3 and 5.1.6.5.
CTRL_VQ, CTRL_MAC_ADDR = 17, 23
CONTROLQ = 2
MAC_ADDR_SET = struct.pack("BB", 1, 1)
OTHER_MAC = bytes.fromhex("525400aabbcc")


def sector(number: int) -> bytes:
    """What the disk has there at first."""
    return CONTENT[number * SECTOR : (number + 1) * SECTOR]


def test_what_a_vm_writes_is_in_the_disks_image(own_site: Start) -> None:
    here = own_site("vduse")
    here.plugged().serves()
    assert here.disk
    assert here.disk.image.read_bytes()[4 * SECTOR :].startswith(b"written!")


def test_daemon_that_is_killed_and_comes_back_serves_what_waits(own_site: Start) -> None:
    here = own_site("vduse")
    driven = here.plugged()
    driver = Driver(driven.transport, driven.memory)
    driver.negotiate()
    disk = Blk(driver)
    assert disk.read(3) == sector(3)
    assert here.disk
    here.disk.kill()
    answer = driven.memory.take(SECTOR)
    request = driven.memory.put(struct.pack("<IIQ", BlkRequest.IN, 0, 5))
    status = driven.memory.put(b"\xff")
    chain = [
        Buffer(request, 16),
        Buffer(answer, SECTOR, writable=True),
        Buffer(status, 1, writable=True),
    ]
    disk.requestq.add(chain)
    driven.transport.notify(disk.requestq.index)
    here.disk.come_back()
    disk.requestq.wait_used(BACK_S)
    assert driven.memory.read(answer, SECTOR) == sector(5)
    assert disk.read(6) == sector(6)


@pytest.mark.parametrize("name", OFFERING)
def test_device_that_is_unplugged_can_be_plugged_again(site: Start, name: str) -> None:
    here = site(name)
    machine = here.l2(machine="pc")
    for _ in range(2):
        machine.plug({**here.device, "addr": "0x10", "bus": "pci.0"})
        plugged(machine).serves()
        machine.qmp.execute("device_del", id="dut")
        assert AcpiHotplug(machine.qtest, BASES["pc"]).eject() == 1
        machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", GONE_S)


@pytest.mark.parametrize("name", OFFERING)
def test_device_is_free_for_the_next_vm(site: Start, name: str) -> None:
    here = site(name)
    for _ in range(2):
        driven = here.plugged()
        driven.serves()
        driven.machine.process.kill()
        driven.machine.process.wait(GONE_S)


def test_control_queue_reaches_the_device(own_site: Start) -> None:
    here = own_site("sim nic")
    driven = here.plugged()
    supports = MODERN | mask([CTRL_VQ, CTRL_MAC_ADDR])
    driver = Driver(driven.transport, driven.memory, Behaviour(supports))
    driver.negotiate()
    assert driver.has(CTRL_MAC_ADDR)
    controlq = driver.queue(CONTROLQ)
    Net(driver)
    answer = driven.memory.put(b"\xff")
    command = driven.memory.put(MAC_ADDR_SET)
    address = driven.memory.put(OTHER_MAC)
    driver.serve(
        controlq, [Buffer(command, 2), Buffer(address, 6), Buffer(answer, 1, writable=True)]
    )
    assert driven.memory.read(answer, 1) == b"\0"
    assert here.configuration() == OTHER_MAC


def test_generic_device_does_not_migrate(site: Start) -> None:
    machine = site("vduse").plugged().machine
    with pytest.raises(QmpRefused, match="vhost-vdpa-device"):
        machine.qmp.execute("migrate", uri="exec:cat >/dev/null")
