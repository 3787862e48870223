"""What a Linux guest hears of a device that its AMD IOMMU refuses an access."""

from contextlib import suppress

from qap.fork.build import Build
from qap.hw.pci import Bdf, Function, Window, Windows
from qap.machine import catalog
from qap.machine.catalog import viommus
from qap.machine.guest.boot import Boot
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.verify.kit.guest_test import GuestTest
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import PciModern
from qap.virtio.rng import Rng

# Linux binds no driver to the device, and leaves the upper half of memory alone.
PLACE = Bdf(0, 0x10, 0)
USED = 256
RINGS, UNMAPPED = 300 * MIB, 1 << 30
# Between memory and what the firmware has placed.
FREE = Windows(
    Window(0xD000_0000, 0xD010_0000), Window(0xD010_0000, 0xD020_0000), Window(0xF000, 0xF100)
)
REFUSED_S = 0.2
TOLD_S = 20.0
TIMES = 3


class AmdEventLog(GuestTest):
    """A driver in Python gives a device of the guest an address that Linux has not mapped.

    :avocado: enable
    :avocado: tags=arch:x86_64,machine:q35,device:virtio-rng-pci,viommu
    """

    def refuse(self, **properties: str) -> None:
        """Boot with this IOMMU, have it refuse some accesses, and find them in Linux's log."""
        guest, iommu = catalog.guest("x86_64"), viommus()["amd-iommu"]
        rng = {"driver": "virtio-rng-pci", "disable-legacy": "on", "iommu_platform": True}
        spec = Spec(
            machine="q35",
            cpu=guest.cpu,
            devices=[{**(iommu.device or {}), **properties}, {**rng, "addr": hex(PLACE.device)}],
            boot=Boot(guest, iommu.modules, f"{iommu.append} mem={USED}M"),
            qtest=True,
        )
        logged = "dmesg | grep 'Event logged'"
        with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as machine:
            machine.boot()
            self.assertEqual(machine.console.run(logged).output, "", "events of an idle guest")
            transport = PciModern(Function(machine.qtest, PLACE, FREE))
            memory = GuestMemory(machine.qtest, RINGS, MIB, UNMAPPED)
            for _ in range(TIMES):
                memory.give_back()
                driver = Driver(transport, memory)
                driver.negotiate()
                with suppress(TimeoutError):
                    Rng(driver).read(16, timeout=REFUSED_S)
            fault = rf"{PLACE}.*IO_PAGE_FAULT .*address=0x400[0-9a-f]{{5}} flags=0x0000\]"
            try:
                machine.console.check(f"await \"dmesg | grep -qE '{fault}'\"", TOLD_S)
            except TimeoutError as untold:
                self.fail(str(untold))
            self.log.info(machine.console.check(logged))

    def test_linux_hears_of_a_refused_access(self) -> None:
        self.refuse()

    def test_linux_in_x2apic_mode_hears_of_it(self) -> None:
        """It describes the interrupt in a register, and not in the MSI capability."""
        self.refuse(xtsup="on", intremap="on")
