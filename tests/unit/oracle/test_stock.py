"""What stock QEMU does at the plug, and where that departs from the fence table."""

import pytest

from qap.oracle import fence, stock
from qap.oracle.fence import REFUSAL_PHRASE, Legacy, Outcome

W, R = Outcome.WORKS, Outcome.REFUSED


# translated, back-end can: stock on PCI, if requested
@pytest.mark.parametrize(
    ("translated", "can", "outcome", "at_fault"),
    [(False, True, W, False), (False, False, R, True), (True, True, W, False),
     (True, False, R, False)],
)  # fmt: skip
def test_pci_refuses_as_if_every_bus_translated(
    translated: bool, can: bool, outcome: Outcome, at_fault: bool
) -> None:
    found = stock.plug(transport="pci", requested=True, translated=translated, backend_can=can)
    expected = fence.plug(requested=True, translated=translated, backend_can=can)
    assert (found.outcome, bool(found.fault)) == (outcome, at_fault)
    assert (found.outcome is not expected.outcome) == at_fault
    assert found.error == ("" if outcome is W else REFUSAL_PHRASE)


def test_back_end_that_is_not_asked_plugs_behind_an_iommu() -> None:
    found = stock.plug(
        transport="pci", requested=True, translated=True, backend_can=False, asked=False
    )
    assert found.outcome is W
    assert "never offered" in found.fault


@pytest.mark.parametrize("transport", ["mmio", "ccw"])
@pytest.mark.parametrize(("legacy", "at_fault"), [("", False), ("only", True)])
def test_other_transports_refuse_nothing(
    transport: stock.Transport, legacy: Legacy, at_fault: bool
) -> None:
    found = stock.plug(
        transport=transport, requested=True, translated=False, backend_can=False, legacy=legacy
    )
    assert (found.outcome, bool(found.fault)) == (W, at_fault)


@pytest.mark.parametrize("can", [True, False])
def test_legacy_interface_is_refused_on_pci_in_one_of_two_ways(can: bool) -> None:
    found = stock.plug(
        transport="pci", requested=True, translated=False, backend_can=can, legacy="also"
    )
    assert found == stock.Conclusion(R, stock.LEGACY_PCI if can else REFUSAL_PHRASE)


def test_device_without_any_interface_is_refused() -> None:
    found = stock.plug(
        transport="pci", requested=False, translated=False, backend_can=True, version_1=False
    )
    assert found == stock.Conclusion(R, stock.NO_INTERFACE)


@pytest.mark.parametrize(("requested", "translated"), [(False, False), (True, True)])
def test_back_end_without_the_means_is_refused_whether_needed_or_not(
    requested: bool, translated: bool
) -> None:
    found = stock.plug(
        transport="pci",
        requested=requested,
        translated=translated,
        backend_can=True,
        has_means=False,
    )
    assert (found.outcome, found.error) == (R, stock.NO_MEANS)
    assert bool(found.fault) == (not translated)


@pytest.mark.parametrize(
    ("transport", "requested", "offers", "outcome", "at_fault"),
    [("pci", True, True, W, False), ("pci", True, False, R, False), ("pci", False, False, W, True),
     ("mmio", True, False, W, True)],
)  # fmt: skip
def test_vdpa(
    transport: stock.Transport, requested: bool, offers: bool, outcome: Outcome, at_fault: bool
) -> None:
    found = stock.plug_vdpa(transport=transport, requested=requested, offers=offers)
    assert (found.outcome, bool(found.fault)) == (outcome, at_fault)


def test_lenient_device_with_only_a_legacy_interface_plugs() -> None:
    strict = fence.plug(requested=True, translated=False, backend_can=True, legacy="only")
    lenient = fence.plug(
        requested=True, translated=False, backend_can=True, legacy="only", lenient=True
    )
    assert (strict.outcome, lenient.outcome, lenient.offered) == (R, W, False)


def test_modern_device_on_ccw_needs_version_1() -> None:
    found = stock.plug(
        transport="ccw", requested=False, translated=False, backend_can=True, version_1=False
    )
    assert found == stock.Conclusion(R, stock.LOW_REVISION)


def test_modern_device_on_mmio_plugs_in_vain_without_version_1() -> None:
    found = stock.plug(
        transport="mmio", requested=False, translated=False, backend_can=True, version_1=False
    )
    assert found == stock.Conclusion(W, fault=stock.NO_DRIVER)
