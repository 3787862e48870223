"""GPA_ADDRESSES: rings, and what the IOTLB leads to, are at guest physical addresses."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.oracle import addresses
from qap.oracle.features import FeatureBit
from qap.vhost_user.protocol import ProtocolFeature

from .front_end import R, u64
from .iommu import Iommu
from .ring_driver import DATA, GUEST_BASE, USER_BASE, WRITE, Bench, Buffer, Packed, Split

WRITABLE = [Buffer(DATA, 64, WRITE)]


@pytest.mark.parametrize("kind", [Split, Packed])
@pytest.mark.parametrize("gpa", [False, True])
def test_rings_are_where_the_front_end_says(
    tmp_path: Path, kind: type[Split | Packed], gpa: bool
) -> None:
    with ExitStack() as owned:
        bench = Bench(tmp_path, owned)
        bench.front.tell(R.SET_PROTOCOL_FEATURES, u64(gpa << ProtocolFeature.GPA_ADDRESSES))
        driver = bench.connected(kind, *([FeatureBit.RING_PACKED] if kind is Packed else []))
        driver.rings = GUEST_BASE if gpa else USER_BASE
        driver.set_up()
        driver.enable()
        if isinstance(driver, Split):
            driver.add(WRITABLE)
        else:
            driver.add(WRITABLE, 0)
        driver.notify()
        assert driver.used(0) == (0, 64)
        assert {access.space for access in bench.backend.touched} == {
            addresses.of_rings(translating=False, gpa_addresses=gpa),
            addresses.of_buffers(translating=False),
        }


@pytest.mark.parametrize("gpa", [False, True])
def test_translations_lead_where_the_front_end_says(tmp_path: Path, gpa: bool) -> None:
    with ExitStack() as owned:
        iommu = Iommu(tmp_path, owned, reply_ack=True, gpa=gpa)
        iommu.translate_rings()
        iommu.update(DATA)
        iommu.driver.add(WRITABLE)
        iommu.kick()
        iommu.driver.sync()
        assert iommu.driver.used(0) == (0, 64)
        assert {access.space for access in iommu.backend.touched} == {
            addresses.of_rings(translating=True, gpa_addresses=gpa)
        }
