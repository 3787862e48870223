"""The fence table in front of the kernel's vhost, which is as the oracle has it."""

from itertools import product

import pytest

from qap.lab.l1 import L1
from qap.lab.l2 import L2
from qap.lab.vhost_told import VhostTold
from qap.machine.catalog import device_types, viommus
from qap.machine.machine import QemuDied
from qap.machine.qmp import QmpRefused
from qap.oracle import fence
from qap.oracle.features import FeatureBit, bits
from qap.oracle.fence import REFUSAL_PHRASE, Expectation, Outcome
from qap.verify.kit.l2_bench import KINDS, L2Bench, at_start, bench_spec
from qap.virtio.pci_modern import PciModern

TRANSLATED = [name for name, row in viommus().items() if row.device]


def expected(kind: str, viommu: str, *, requested: bool, legacy: bool = False) -> Expectation:
    """The row of the fence table for a device on a q35."""
    kernel = device_types()[kind].kernel
    assert kernel is not None
    return fence.plug(
        requested=requested,
        translated=viommus()[viommu].device is not None,
        backend_can=kernel.access_platform,
        legacy="also" if legacy else "",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_offers_what_the_catalogue_says(told: VhostTold, kind: str) -> None:
    """VHOST_GET_FEATURES of <linux/vhost.h>."""
    kernel = device_types()[kind].kernel
    assert kernel is not None
    has = bits(told.offered(device_types()[kind].node))
    assert FeatureBit.VERSION_1 in has
    assert (FeatureBit.ACCESS_PLATFORM in has) is kernel.access_platform


@pytest.mark.parametrize("interface", ["modern", "transitional"])
@pytest.mark.parametrize("requested", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("viommu", viommus())
def test_hot_plug_is_as_the_table_says(
    bench: L2Bench, viommu: str, kind: str, requested: bool, interface: str
) -> None:
    legacy = interface == "transitional" and device_types()[kind].legacy
    row = expected(kind, viommu, requested=requested, legacy=legacy)
    device = {"iommu_platform": requested, "disable-legacy": "off" if legacy else "on"}
    try:
        with bench.plugged(kind, **device) as function:
            shown = bits(PciModern(function).device_features)
        assert row.outcome is Outcome.WORKS
        assert (FeatureBit.ACCESS_PLATFORM in shown) is row.offered
    except QmpRefused as refused:
        assert row.outcome is Outcome.REFUSED, refused.said
        assert legacy or REFUSAL_PHRASE in refused.said


def outcomes(viommu: str) -> dict[str, Outcome]:
    """How a cold plug with iommu_platform=on must end, by the type."""
    return {kind: expected(kind, viommu, requested=True).outcome for kind in KINDS}


def start(l1: L1, viommu: str, kinds: list[str], *, late: bool) -> L2:
    """A machine with these devices, not started yet; the vIOMMU comes first, or late."""
    devices = [at_start(kind, iommu_platform=True) for kind in kinds]
    spec = bench_spec(kinds, viommu, devices, late=late)
    return L2(l1.build.path("qemu-system-x86_64"), spec, l1=l1)


@pytest.mark.parametrize(
    ("viommu", "late"),
    [("none", False), *product(TRANSLATED, (False, True))],
    ids=lambda value: value if isinstance(value, str) else "after" if value else "before",
)
def test_all_that_must_plug_do_so_beside_each_other(kernel: L1, viommu: str, late: bool) -> None:
    good = [kind for kind, outcome in outcomes(viommu).items() if outcome is Outcome.WORKS]
    assert good
    with start(kernel, viommu, good, late=late) as machine:
        assert machine.alive


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("viommu", TRANSLATED)
def test_what_must_be_refused_is_whatever_the_order(kernel: L1, viommu: str, late: bool) -> None:
    bad = [kind for kind, outcome in outcomes(viommu).items() if outcome is Outcome.REFUSED]
    assert bad
    for kind in bad:
        with pytest.raises(QemuDied) as died, start(kernel, viommu, [kind], late=late):
            pass
        assert died.value.fenced, died.value.said
