"""Data goes through the kernel's vhost, at guest physical and at I/O virtual addresses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from qap.hw.pci import Function
from qap.hw.pci_bus import PciBus
from qap.lab.echo import echo
from qap.lab.l1 import L1
from qap.lab.l2 import L2
from qap.lab.scsi_target import SECTORS, sector
from qap.lab.vhost_told import VhostTold
from qap.machine.catalog import viommus
from qap.machine.guest_memory import LOW_END, MIB, PAGE, GuestMemory
from qap.machine.machine import QemuDied
from qap.oracle.features import FeatureBit, bits
from qap.verify.kit.l2_bench import KINDS, L2Bench, at_start, bench_spec, virtio_functions
from qap.virtio.driver import Driver
from qap.virtio.net import Net
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer
from qap.virtio.scsi import Scsi, Unit
from qap.virtio.vsock import ConnectionReset, Vsock

TAP = "tap0"
PORT, NOBODYS, LOCAL = 4000, 4001, 1024
OURS, THEIRS = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
EXPERIMENTAL = b"\x88\xb5"
# More than fit in a ring, so that it wraps.
MANY = 70
# Each driver's memory, where there are several.
SHARE = 8 * MIB
# An I/O virtual address that no driver's memory is at.
ELSEWHERE = 1 << 33
DISK = Unit(target=1)
TRANSLATED = [name for name, row in viommus().items() if row.device]


@contextmanager
def negotiated(
    bench: L2Bench, kind: str, *, requested: bool = True
) -> Iterator[tuple[Driver, Function]]:
    """A driver of a hot-plugged device that has accepted its features, and the device."""
    with (
        bench.plugged(kind, **{"disable-legacy": "on", "iommu_platform": requested}) as function,
        bench.driver(function, mapped=requested) as driver,
    ):
        driver.negotiate()
        assert driver.has(FeatureBit.ACCESS_PLATFORM) is requested
        yield driver, function


def given(told: VhostTold) -> bool:
    """Whether the kernel was given ACCESS_PLATFORM; it must have been told of rings."""
    heard = told.take()
    assert heard.ring
    assert heard.features is not None
    return FeatureBit.ACCESS_PLATFORM in bits(heard.features)


@pytest.fixture(scope="module")
def echoing(kernel: L1) -> Iterator[None]:
    """L1 sends frames back, and what comes on connections to PORT."""
    with echo(kernel, "tap", TAP), echo(kernel, "vsock", str(PORT)):
        yield


@pytest.mark.usefixtures("echoing")
@pytest.mark.parametrize("viommu", viommus())
def test_frames_reach_the_tap_and_come_back(bench: L2Bench, told: VhostTold, viommu: str) -> None:
    with negotiated(bench, "vhost-net") as (driver, _):
        net = Net(driver)
        assert given(told) is bench.translated
        for number in range(MANY):
            data = EXPERIMENTAL + number.to_bytes(4) + os.urandom(60)
            net.send(THEIRS + OURS + data)
            assert net.receive() == OURS + THEIRS + data


@pytest.mark.usefixtures("echoing")
@pytest.mark.parametrize("viommu", viommus())
def test_a_connection_to_the_host_carries_data_both_ways(
    bench: L2Bench, told: VhostTold, viommu: str
) -> None:
    with negotiated(bench, "vhost-vsock") as (driver, _):
        vsock = Vsock(driver)
        assert given(told) is bench.translated
        with pytest.raises(ConnectionReset):
            vsock.connect(NOBODYS, local=LOCAL + 1)
        stream = vsock.connect(PORT, local=LOCAL)
        for _ in range(4):
            data = os.urandom(10_000)
            stream.send(data)
            assert stream.read(len(data)) == data
        stream.close()


@pytest.mark.parametrize("viommu", viommus())
def test_a_disk_of_the_kernel_is_read_and_written(
    bench: L2Bench, told: VhostTold, viommu: str
) -> None:
    """Behind an IOMMU it can't have the bit, and bypasses it."""
    with negotiated(bench, "vhost-scsi", requested=not bench.translated) as (driver, _):
        scsi = Scsi(driver)
        assert not given(told)
        assert b"FILEIO" in scsi.inquiry(DISK)
        assert scsi.read(DISK, 0, SECTORS) == b"".join(map(sector, range(SECTORS)))
        scsi.write(DISK, 1, sector(7) + sector(8))
        assert scsi.read(DISK, 0, 4) == sector(0) + sector(7) + sector(8) + sector(3)
        scsi.write(DISK, 1, sector(1) + sector(2))


@pytest.mark.usefixtures("echoing")
@pytest.mark.parametrize("viommu", TRANSLATED)
def test_the_kernel_forgets_a_mapping_that_was_taken_back(bench: L2Bench, viommu: str) -> None:
    """An address that is mapped to another page leads there at once, in the kernel as well."""
    with negotiated(bench, "vhost-net") as (driver, function):
        net, memory, iommu = Net(driver), driver.memory, bench.iommu
        assert iommu is not None
        head = bytes(net.header_size) + THEIRS + OURS + EXPERIMENTAL
        chain = [Buffer(ELSEWHERE, len(head) + 60)]
        for text in (b"before", b"after."):
            page = memory.take(PAGE, PAGE)
            memory.write(page, head + text * 10)
            iommu.map(function.bdf, ELSEWHERE, memory.physical(page), PAGE)
            driver.serve(net.transmitq, chain)
            assert net.receive().endswith(text)
            iommu.unmap(function.bdf, ELSEWHERE, PAGE)


@pytest.mark.parametrize("viommu", ["none"])
def test_the_kernel_serves_another_qemu_when_one_was_killed(bench: L2Bench, viommu: str) -> None:
    l1 = bench.l1
    spec = bench_spec(KINDS, viommu, [at_start(kind, iommu_platform=True) for kind in KINDS])
    with L2(l1.build.path("qemu-system-x86_64"), spec, l1=l1) as machine, pytest.raises(QemuDied):
        for number, function in enumerate(virtio_functions(PciBus(machine.qtest))):
            memory = GuestMemory(machine.qtest, LOW_END + number * SHARE, SHARE)
            driver = Driver(PciModern(function), memory)
            driver.negotiate()
            for queue in (0, 1):
                driver.queue(queue)
            driver.start()
        devices = machine.qmp.execute("x-query-virtio")
        started = [
            machine.qmp.execute("x-query-virtio-status", path=device["path"])["vhost-started"]
            for device in devices
        ]
        assert started == [True] * len(KINDS)
        machine.process.kill()
        machine.qmp.execute("query-status")
    for kind in KINDS:
        with negotiated(bench, kind):
            pass
