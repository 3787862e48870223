"""Each refusal of the fence table has a remedy that fits the guest."""

from functools import partial
from itertools import product

import pytest

from qap.oracle import fence, remedy
from qap.oracle.fence import Legacy, Outcome

LEGACIES: tuple[Legacy, ...] = ("", "also", "only")
# A modern device that asks for the bit, on a bus that translates.
behind_viommu = partial(
    remedy.of_refusal,
    transport="pci",
    requested=True,
    translated=True,
    legacy="",
    version_1=True,
    is_iommu=False,
)


@pytest.mark.parametrize(
    ("requested", "translated", "legacy", "version_1", "is_iommu"),
    list(product([False, True], [False, True], LEGACIES, [False, True], [False, True])),
)
def test_what_is_refused_has_a_remedy(
    requested: bool, translated: bool, legacy: Legacy, version_1: bool, is_iommu: bool
) -> None:
    expected = fence.plug(
        requested=requested,
        translated=translated,
        backend_can=False,
        legacy=legacy,
        version_1=version_1,
        is_iommu=is_iommu,
    )
    found = remedy.of_refusal(
        transport="pci",
        requested=requested,
        translated=translated,
        legacy=legacy,
        version_1=version_1,
        is_iommu=is_iommu,
    )
    if expected.outcome is Outcome.REFUSED:
        assert found


def test_confidential_guest_needs_the_bit() -> None:
    found = [one for legacy in LEGACIES for one in behind_viommu(legacy=legacy, demands=True)]
    assert found
    assert "iommu_platform=off" not in found


@pytest.mark.parametrize("is_iommu", [False, True])
def test_confidential_guest_behind_a_viommu_does_without_that(is_iommu: bool) -> None:
    """Its driver demands the bit, so the vIOMMU goes, or the bus bypasses it."""
    found = behind_viommu(is_iommu=is_iommu, demands=True)
    assert list(found)[-2:] == [remedy.NO_VIOMMU, remedy.BYPASS]
    assert not any("iommu_platform" in one for one in found)


@pytest.mark.parametrize("demands", [False, True])
def test_host_bridge_that_translates_can_be_neither_left_out_nor_bypassed(demands: bool) -> None:
    found = behind_viommu(demands=demands, fixed=True)
    assert list(found) == [remedy.TRANSLATES, *([] if demands else [remedy.INSTEAD])]
