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
    has = bits(told.offered(kind))
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


CASES = [(viommu, late) for viommu, late in product(viommus(), (False, True))]


@pytest.mark.parametrize(
    ("viommu", "late"),
    [(name, late) for name, late in CASES if viommus()[name].device or not late],
    ids=lambda value: value if isinstance(value, str) else "after" if value else "before",
)
def test_cold_plug_is_as_the_table_says(kernel: L1, viommu: str, late: bool) -> None:
    """All that must plug do so beside each other; what must be refused is, alone."""
    binary = kernel.build.path("qemu-system-x86_64")
    rows = {kind: expected(kind, viommu, requested=True) for kind in KINDS}
    good = [kind for kind, row in rows.items() if row.outcome is Outcome.WORKS]
    devices = [at_start(kind, iommu_platform=True) for kind in good]
    with L2(binary, bench_spec(good, viommu, devices, late=late), l1=kernel) as machine:
        assert machine.alive
    for kind in set(KINDS) - set(good):
        spec = bench_spec([kind], viommu, [at_start(kind, iommu_platform=True)], late=late)
        with pytest.raises(QemuDied) as died, L2(binary, spec, l1=kernel):
            pass
        assert died.value.fenced, died.value.said
