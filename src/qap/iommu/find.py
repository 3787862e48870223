"""Finding the IOMMU of a machine, whichever it is."""

from qap.hw.pci_bus import PciBus
from qap.iommu.amd import Amd, is_amd
from qap.iommu.driver import Iommu
from qap.iommu.virtio_iommu import DEVICE_TYPE, VirtioIommu
from qap.iommu.vtd import Vtd
from qap.machine.guest_memory import GuestMemory
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID


def find_iommu(bus: PciBus, memory: GuestMemory) -> Iommu:
    """The IOMMU of a q35; its translation is not changed, and is off after a reset.

    Args:
        memory: only for the IOMMU; 4 MiB are enough for 200 devices with a window each.
    Raises:
        IommuError: there is none.
    """
    for function in bus.scan():
        if is_amd(function):
            return Amd(function, memory)
        is_virtio = function.vendor_id == VENDOR_ID
        if is_virtio and function.device_id == MODERN_DEVICE_ID + DEVICE_TYPE:
            return VirtioIommu(function, memory)
    return Vtd(memory)
