"""The fence table for vDPA devices."""

import pytest

from qap.machine.machine import QemuDied
from qap.oracle.features import FeatureBit, mask
from qap.oracle.fence import Outcome, plug_vdpa
from qap.verify.kit.vdpa_site import NOT_OFFERING, OFFERING, VIOMMUS, Start

BIT = mask([FeatureBit.ACCESS_PLATFORM])
REASON = "the backend does not offer VIRTIO_F_ACCESS_PLATFORM, so it would take the I/O virtual"


@pytest.mark.parametrize("viommu", VIOMMUS)
@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("name", OFFERING)
def test_device_that_offers_the_bit_is_served(
    site: Start, name: str, viommu: str, *, requested: bool
) -> None:
    expected = plug_vdpa(requested=requested, translated=viommu != "none", offers=True)
    assert expected.outcome is Outcome.WORKS
    here = site(name)
    driver = here.plugged(viommu=viommu, iommu_platform=requested, disable_legacy="on").serves()
    assert bool(driver.offered & BIT) is expected.offered
    told = [call.values[0] for call in here.asked.all() if call.operation == "set_driver_features"]
    assert bool(told[-1] & BIT) is expected.translating


def refusal(site: Start, name: str, viommu: str, *, requested: bool) -> str:
    """What QEMU says when the device is on its command line."""
    expected = plug_vdpa(requested=requested, translated=viommu != "none", offers=False)
    assert expected.outcome is Outcome.REFUSED
    with pytest.raises(QemuDied) as died:
        site(name).plugged(viommu=viommu, iommu_platform=requested, disable_legacy="on")
    assert died.value.status == 1
    return died.value.said


@pytest.mark.parametrize("viommu", ["none", "intel-iommu"])
@pytest.mark.parametrize("name", NOT_OFFERING)
def test_device_without_the_bit_is_refused_at_start(site: Start, name: str, viommu: str) -> None:
    """Also where nobody requests it."""
    said = refusal(site, name, viommu, requested=False)
    assert REASON in said
    assert "'dut' on bus 'pcie.0'" in said


@pytest.mark.parametrize("viommu", ["none", "intel-iommu"])
@pytest.mark.parametrize("name", NOT_OFFERING)
def test_device_without_the_bit_is_refused_where_it_is_requested(
    site: Start, name: str, viommu: str
) -> None:
    assert REASON in refusal(site, name, viommu, requested=True)


@pytest.mark.parametrize("name", NOT_OFFERING)
def test_device_without_the_bit_is_refused_while_the_vm_runs(site: Start, name: str) -> None:
    here = site(name)
    machine = here.l2()
    for _ in range(2):
        assert REASON in machine.refusal({**here.device, "bus": "port0"})
    assert machine.alive
