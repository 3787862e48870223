"""Drivers of virtual IOMMUs without devices: tables, domain numbers, errors."""

from collections.abc import Callable

import pytest

from qap.host.errors import QapError
from qap.hw.pci import Bdf
from qap.hw.pci_bus import PciBus
from qap.iommu.amd import Amd, fault, is_amd
from qap.iommu.driver import FaultReason, Iommu, IommuError, IommuFault
from qap.iommu.find import find_iommu
from qap.iommu.virtio_iommu import ReservedRegion, VirtioIommu
from qap.iommu.vtd import Vtd
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.verify.kit.lab import Lab

IOMMUS: dict[str, Device] = {
    "intel-iommu": {"driver": "intel-iommu"},
    "virtio-iommu": {"driver": "virtio-iommu-pci", "id": "viommu"},
    "amd-iommu": {"driver": "amd-iommu"},
}
# A function that every q35 has.
SATA = Bdf(0, 31, 2)
DATA, TABLES = 16 * MIB, 96 * MIB
IOVA = 1 << 30


@pytest.fixture
def iommu_of(lab: Lab) -> Callable[..., Iommu]:
    """The enabled IOMMU of a machine with no device behind it."""

    def start(kind: str) -> Iommu:
        bus = PciBus(lab.machine(IOMMUS[kind], qtest=True).qtest)
        bus.scan()
        iommu = find_iommu(bus, GuestMemory(bus.qtest, TABLES, 4 * MIB))
        iommu.enable()
        return iommu

    return start


each_iommu = pytest.mark.parametrize("kind", IOMMUS)
each_paged = pytest.mark.parametrize("kind", ["intel-iommu", "amd-iommu"])


@each_paged
def test_large_window_needs_few_tables(lab: Lab, kind: str) -> None:
    """64 MiB in 2 MiB pages; with pages of 4 KiB the leaves alone would need 32 tables."""
    bus = PciBus(lab.machine(IOMMUS[kind], qtest=True).qtest)
    memory = GuestMemory(bus.qtest, TABLES, 16 * PAGE)
    amd = [function for function in bus.scan() if is_amd(function)]
    iommu = Amd(amd[0], memory, buses=1) if amd else Vtd(memory)
    iommu.attach(SATA)
    iommu.map(SATA, IOVA, DATA, 64 * MIB)
    with pytest.raises(QapError, match="no 4096 bytes are left"):
        iommu.map(SATA, IOVA + 64 * MIB + PAGE, DATA, 64 * MIB)


@each_paged
def test_tables_of_detached_devices_are_used_again(
    iommu_of: Callable[..., Iommu], kind: str
) -> None:
    """Each attach needs at least 11 of the 1024 pages."""
    iommu = iommu_of(kind)
    for _ in range(100):
        iommu.attach(SATA)
        iommu.map(SATA, IOVA - PAGE, DATA, 16 * MIB)
        iommu.detach(SATA)


@each_iommu
def test_senseless_requests_are_errors(iommu_of: Callable[..., Iommu], kind: str) -> None:
    iommu = iommu_of(kind)
    with pytest.raises(IommuError, match=r"00:1f\.2 has no domain"):
        iommu.map(SATA, IOVA, DATA, PAGE)
    iommu.attach(SATA)
    with pytest.raises(IommuError, match=r"00:1f\.2 has a domain already"):
        iommu.attach(SATA)
    for iova, size in ((IOVA + 1, PAGE), (IOVA, 0), (IOVA, 100)):
        with pytest.raises(IommuError, match="no multiple of 4096"):
            iommu.map(SATA, iova, DATA, size)
    with pytest.raises(IommuError, match=f"not below {iommu.limit:#x}"):
        iommu.map(SATA, iommu.limit - PAGE, DATA, 2 * PAGE)
    iommu.map(SATA, IOVA, DATA, 4 * MIB)
    for iova in (IOVA - PAGE, IOVA + 4 * MIB - PAGE):
        with pytest.raises(IommuError, match="is mapped already"):
            iommu.map(SATA, iova, DATA, 2 * PAGE)
    iommu.unmap(SATA, IOVA, 4 * MIB)
    iommu.map(SATA, IOVA - PAGE, DATA, 2 * PAGE)


def test_machine_without_an_iommu_has_none(lab: Lab) -> None:
    machine = lab.machine(qtest=True)
    with pytest.raises(IommuError, match="no VT-d that translates"):
        find_iommu(PciBus(machine.qtest), GuestMemory(machine.qtest, TABLES))


def test_virtio_iommu_unmaps_a_mapping_in_one_piece(iommu_of: Callable[..., Iommu]) -> None:
    iommu = iommu_of("virtio-iommu")
    iommu.attach(SATA)
    iommu.map(SATA, IOVA, DATA, 4 * PAGE)
    with pytest.raises(IommuError, match="part of a larger mapping"):
        iommu.unmap(SATA, IOVA + PAGE, PAGE)


def test_virtio_iommu_reserves_the_msi_addresses(iommu_of: Callable[..., Iommu]) -> None:
    iommu = iommu_of("virtio-iommu")
    assert isinstance(iommu, VirtioIommu)
    assert iommu.probe(SATA) == [ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, 1)]


def test_virtio_iommu_says_what_it_refused(iommu_of: Callable[..., Iommu]) -> None:
    iommu = iommu_of("virtio-iommu")
    with pytest.raises(IommuError, match="virtio-iommu: ATTACH: NOENT"):
        iommu.attach(Bdf(77, 0, 0))


def test_amd_iommu_has_an_entry_for_each_bus_it_was_given(iommu_of: Callable[..., Iommu]) -> None:
    with pytest.raises(IommuError, match=r"10:00\.0 is on none of the device table's 16 buses"):
        iommu_of("amd-iommu").attach(Bdf(16, 0, 0))


@pytest.mark.parametrize(
    ("flags", "write"), [(0, None), (1 << 52, False), (1 << 52 | 1 << 53, True)]
)
def test_event_of_an_amd_iommu_is_read(flags: int, write: bool | None) -> None:
    """An IO_PAGE_FAULT (AMD 2.5.3), in which bit 52 is PR and bit 53 RW."""
    low = 0x2 << 60 | flags | 0x5 << 32 | 0x0108
    expected = IommuFault(Bdf(1, 1, 0), 0x4000_0123, FaultReason.MAPPING, write, 2)
    assert fault(low, 0x4000_0123) == expected
