"""Address Translation Services: a PCI Express function that caches translations itself.

"PCIe" is the PCI Express Base Specification 5.0.
"""

from qap.hw.pci import Function, PciError
from qap.iommu.driver import source_id

# The host bridge of a q35: register PCIEXBAR (Intel's 3 Series chipsets) enables extended
# configuration space, which the ports don't reach, and sets its address.
PCIEXBAR = 0x60
PCIEXBAR_ENABLE = 1 << 0
ECAM = 0xB000_0000

# PCIe 7.6: offset of the first extended capability; a header has the id and the next offset.
FIRST = 0x100
NEXT = 20

# PCIe 10.5.1.
CAPABILITY_ATS = 0x000F
ATS_CONTROL = 0x06
ATS_ENABLE = 1 << 15


def enable_ats(host_bridge: Function, function: Function) -> None:
    """Let a function of a q35 use ATS.

    The IOMMU must be told first (`Vtd.use_device_tlb`). QEMU aborts when a vhost device
    starts with ATS behind an IOMMU without device TLB support.

    Args:
        host_bridge: 00:00.0.
    Raises:
        PciError: it has no ATS capability.
    """
    host_bridge.config_write(PCIEXBAR + 4, 4, ECAM >> 32)
    host_bridge.config_write(PCIEXBAR, 4, ECAM & 0xFFFF_FFFF | PCIEXBAR_ENABLE)
    qtest = function.qtest
    # PCIe 7.2.2: a page for each function.
    page = ECAM + (source_id(function.bdf) << 12)
    at = FIRST
    while at:
        header = qtest.readl(page + at)
        if header & 0xFFFF == CAPABILITY_ATS:
            qtest.writew(page + at + ATS_CONTROL, ATS_ENABLE)
            return
        at = header >> NEXT & ~3
    raise PciError(f"{function} has no ATS")
