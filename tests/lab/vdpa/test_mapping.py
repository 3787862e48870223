"""A vDPA device that can't be given the guest's memory does not start."""

import pytest

from qap.machine.device import Device
from qap.oracle.status import Status
from qap.verify.kit.vdpa_site import Plugged, Site, Start, plugged
from qap.virtio.driver import Driver

# Too little to pin what L2 has.
LITTLE = ("/bin/sh", "-c", 'ulimit -l 64; exec "$0" "$@"')
# It does not tell of mappings.
VTD: Device = {"driver": "intel-iommu"}


def started(site: Site, driven: Plugged) -> bool:
    """Whether the device got DRIVER_OK when the driver set it."""
    site.asked.forget()
    driver = Driver(driven.transport, driven.memory)
    driver.negotiate()
    driver.queue(0)
    driver.start()
    asked = site.asked.all()
    statuses = [Status(call.values[0]) for call in asked if call.operation == "set_status"]
    assert statuses
    return any(Status.DRIVER_OK in status for status in statuses)


@pytest.mark.parametrize("name", ["vp", "vp nic"])
def test_device_whose_memory_cant_be_pinned_does_not_start(site: Start, name: str) -> None:
    here = site(name)
    driven = plugged(here.l2({**here.device, "addr": "0x5"}, wrapper=LITTLE))
    assert not started(here, driven)
    assert driven.machine.alive
    assert "DMA mapping failed" in driven.machine.process.tail()


@pytest.mark.parametrize("name", ["vduse", "sim nic"])
def test_device_behind_an_iommu_that_tells_of_no_mappings_does_not_start(
    site: Start, name: str
) -> None:
    """VT-d without caching mode."""
    here = site(name)
    device = {**here.device, "addr": "0x5", "disable-legacy": "on", "iommu_platform": True}
    driven = plugged(here.l2(VTD, device), translated=True)
    assert not started(here, driven)
    assert driven.machine.alive
    assert "caching mode" in driven.machine.process.tail()
