"""What a PCI function of a Secure Execution guest has in memory is shared, or not accessed."""

import pytest

from qap.host.wait import poll_until
from qap.hw.zpci import ZpciError, ZpciFunction, zpci_functions
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, PAGE, GuestMemory
from qap.verify.kit.se_guest import PROGRAMS, SeGuest, Start

FUNCTION: Device = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": True}
TABLES, MAPPED = 64 * MIB, 80 * MIB
# A function writes its measurement block each 4 s.
MEASURED_S = 20.0
BLOCK = 64


def protected(start: Start) -> tuple[SeGuest, ZpciFunction]:
    """A guest all of whose memory is private but one page, and its enabled function."""
    guest = start(FUNCTION)
    guest.ultravisor.share(PROGRAMS)
    (function,) = zpci_functions(guest.cpu)
    function.enable()
    return guest, function


def test_private_measurement_block_is_not_written(start: Start) -> None:
    guest, function = protected(start)
    shared, private = guest.memory.take(PAGE), guest.memory.take(PAGE)
    guest.ultravisor.share(shared)
    function.measure(shared)
    poll_until(
        lambda: any(guest.memory.read(shared, BLOCK)) or None, MEASURED_S, lambda: "a measurement"
    )
    function.measure(private)
    seen = guest.violation()
    assert (seen["device"], seen["direction"]) == ("dut", "write")
    assert seen["address"] // PAGE * PAGE == private
    assert not any(guest.memory.read(private, PAGE))


def test_private_translation_tables_are_not_read(start: Start) -> None:
    guest, function = protected(start)
    tables = GuestMemory(guest.machine.qtest, TABLES, MIB)
    with pytest.raises(ZpciError):
        function.translate(tables, function.dma_range().start, MAPPED, MIB)
    seen = guest.violation()
    assert (seen["device"], seen["direction"]) == ("dut", "read")
    assert seen["address"] // PAGE * PAGE == TABLES
