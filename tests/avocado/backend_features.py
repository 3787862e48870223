"""What a back-end is told after a real driver has accepted ACCESS_PLATFORM."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qap.fork.build import Build
from qap.machine import catalog
from qap.machine.catalog import machine_types, viommus
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit, bits
from qap.verify.kit.guest_test import GuestTest
from qap.vhost_user.backend import Backend
from qap.vhost_user.backends import backend
from qap.vhost_user.protocol import FrontendRequest

RNG = 4


class BackendFeatures(GuestTest):
    """A Linux guest drives vhost-user-rng-pci; the back-end records what QEMU sends.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:vhost-user-rng-pci
    """

    @contextmanager
    def backend(self, *, access_platform: bool) -> Iterator[Backend]:
        """A back-end in its own folder, as a socket's path must be short (unix(7))."""
        with tempfile.TemporaryDirectory(prefix="qap-") as folder:
            path = Path(folder) / "backend.sock"
            with backend(path, "vhost-user-rng", access_platform=access_platform) as behind:
                yield behind

    def negotiate(self, behind: Backend, viommu: str) -> list[int]:
        """Boot, let the driver bind, and return the bits it negotiated."""
        guest = catalog.guest("x86_64")
        iommu = viommus()[viommu]
        place = machine_types()["q35"]
        device = {"driver": "vhost-user-rng-pci", "chardev": "backend", "iommu_platform": True}
        listed = [dict(iommu.device)] if iommu.device else []
        spec = Spec(
            machine=place.name,
            cpu=guest.cpu,
            devices=[*listed, dict(place.port or {}), {**device, **place.place}],
            chardevs=[f"socket,id=backend,path={behind.path}"],
            boot=Boot(guest, ("virtio_rng", *iommu.modules), iommu.append),
        )
        with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as machine:
            machine.boot()
            name = io_checks.find(machine.console, RNG)
            behind.wait_for(FrontendRequest.SET_VRING_KICK, timeout=30)
            return io_checks.negotiated(machine.console, name)

    def test_untranslated_backend_never_sees_the_bit(self) -> None:
        """Also if it offers the bit: without an IOMMU there is nothing to translate."""
        for offers in (False, True):
            with self.backend(access_platform=offers) as behind:
                accepted = self.negotiate(behind, "none")
                told = bits(behind.acked_features or 0)
                self.assertIn(FeatureBit.ACCESS_PLATFORM, accepted)
                self.assertIn(FeatureBit.VERSION_1, told)
                self.assertNotIn(FeatureBit.ACCESS_PLATFORM, told)
                self.assertEqual(behind.requests(FrontendRequest.IOTLB_MSG), [])

    def test_translating_backend_gets_bit_and_iotlb(self) -> None:
        """:avocado: tags=viommu"""
        with self.backend(access_platform=True) as behind:
            accepted = self.negotiate(behind, "intel-iommu")
            told = bits(behind.acked_features or 0)
            self.assertIn(FeatureBit.ACCESS_PLATFORM, accepted)
            self.assertIn(FeatureBit.ACCESS_PLATFORM, told)
            self.assertNotEqual(behind.requests(FrontendRequest.IOTLB_MSG), [])
