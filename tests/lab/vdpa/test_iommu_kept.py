"""A vIOMMU outlives the vDPA devices that are started and stopped behind it."""

import pytest

from qap.verify.kit.vdpa_site import VIOMMUS, Start
from qap.virtio.driver import Driver

CYCLES = 100


@pytest.mark.parametrize("viommu", [name for name in VIOMMUS if name != "none"])
def test_iommu_is_kept_while_devices_start_and_stop(site: Start, viommu: str) -> None:
    driven = site("vduse").plugged(viommu=viommu, iommu_platform=True, disable_legacy="on")
    for _ in range(CYCLES):
        driver = Driver(driven.transport, driven.memory)
        driver.negotiate()
        driver.queue(0)
        driver.start()
        driven.memory.give_back()
    driven.transport.reset()
    driven.serves()
