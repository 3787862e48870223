"""Unmodified kernels as AMD SEV guests, simulated under TCG, and their virtio devices."""

import re

from qap.fork.build import Build
from qap.machine.elf_core import segments
from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.oracle.fence import REFUSAL_PHRASE
from qap.scenario.confidential import Shared
from qap.scenario.confidential_kind import ConfidentialKind
from qap.verify.kit.confidential_machine import GuestOptions
from qap.verify.kit.confidential_test import BLOCK_MODULES, ConfidentialTest

PAGE = 1 << 12
# Pages: for atomic allocations three pools of 128 KiB, and rings.
POOLS = 256


class ConfidentialSevCpu(ConfidentialTest):
    """Various CPUs and machines.

    :avocado: enable
    :avocado: tags=confidential,arch:x86_64,machine:q35,device:virtio-blk-pci
    """

    kind = ConfidentialKind.SEV
    guest = "x86_64"

    def test_five_levels(self) -> None:
        """A kernel turns on 5-level paging while it decompresses itself."""
        disk, blockdevs = self.disk
        how: GuestOptions = {"cpus": 2, "packaged": True, "blockdevs": blockdevs}
        with self.booted([disk], BLOCK_MODULES, **how) as machine:
            machine.console.check("grep -qw la57 /proc/cpuinfo")
            self.prove_disk(machine)

    def test_pc(self) -> None:
        """:avocado: tags=machine:pc"""
        self.prove_boot(machine="pc", cpus=2)

    def test_epyc(self) -> None:
        self.prove_boot(cpu="EPYC-Rome")

    def test_debuggers_see_through_the_c_bit(self) -> None:
        """Monitor and dump translate a virtual address as the guest does."""
        with self.booted() as machine:
            symbols = machine.console.check("grep -w linux_banner /proc/kallsyms")
            address = int(symbols.split()[0], 16)
            banner = machine.console.check("cat /proc/version").encode()
            saved = self.folder / "saved"
            machine.qmp.execute("memsave", val=address, size=512, filename=str(saved))
            self.assertTrue(saved.read_bytes().startswith(b"Linux version "))
            self.assertTrue(saved.read_bytes().startswith(banner[:40]))
            physical = machine.qmp.hmp(f"gva2gpa {address:#x}")
            self.assertRegex(physical, r"^gpa: 0x[0-9a-f]{1,8}\s*$")
            lines = machine.qmp.hmp("info mem").splitlines()
            ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
            self.assertTrue(any(start <= address < end for start, end in ranges))
            page = f"{address & ~0x1FFFFF:016x}: {int(physical.split()[1], 16) & ~0x1FFFFF:016x}"
            self.assertIn(page, machine.qmp.hmp("info tlb"))
            dump = self.folder / "dump"
            machine.qmp.execute("dump-guest-memory", paging=True, protocol=f"file:{dump}")
            addresses = [
                segment.physical + address - segment.virtual
                for segment in segments(dump)
                if segment.virtual <= address < segment.virtual + segment.size
            ]
            self.assertEqual(addresses, [int(physical.split()[1], 16)])


class ConfidentialSev(ConfidentialTest):
    """
    :avocado: enable
    :avocado: tags=confidential,arch:x86_64,machine:q35
    """

    kind = ConfidentialKind.SEV
    guest = "x86_64"

    def test_devices_in_qemu(self) -> None:
        """:avocado: tags=device:virtio-blk-pci,device:virtio-net-pci,device:virtio-9p-pci"""
        self.prove_devices_in_qemu()

    def test_back_ends(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci,device:vhost-user-blk-pci
        :avocado: tags=device:vhost-user-vsock-pci
        """
        self.prove_back_ends()

    def test_virtiofs_comes_and_goes(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci,hotplug"""
        self.prove_virtiofs_comes_and_goes()

    def test_bounce_buffers_that_were_never_used_are_counted(self) -> None:
        """All of SWIOTLB is shared, and beside it only rings and pools for such (some 130 pages).

        :avocado: tags=device:virtio-blk-pci
        """
        disk, blockdevs = self.disk
        with self.booted([disk], BLOCK_MODULES, blockdevs=blockdevs) as machine:
            self.prove_disk(machine)
            said = machine.console.check("dmesg | grep -F 'software IO TLB: mapped'")
            first, last = (int(end, 16) for end in re.findall(r"0x([0-9a-f]+)", said))
            shared = Shared.of(machine)
            self.assertTrue(shared.holds(first, last - first))
            self.assertLess(shared.shared, (last - first) // PAGE + POOLS)

    def test_reboots(self) -> None:
        """:avocado: tags=device:virtio-blk-pci"""
        self.prove_reboots(10)

    def test_bookworm_kernel(self) -> None:
        """:avocado: tags=device:vhost-user-fs-pci"""
        self.prove_kernel("x86_64-bookworm")

    def test_driver_refuses_a_device_without_iommu_platform(self) -> None:
        """:avocado: tags=device:virtio-rng-pci"""
        self.prove_refusal_by_the_driver()

    def test_guest_that_shares_too_little_is_stopped(self) -> None:
        """:avocado: tags=device:virtio-blk-pci"""
        self.prove_enforcement()

    def test_base_can_not_plug_what_the_fork_can(self) -> None:
        """The guest uses bounce buffers as a confidential guest does, which base does not support.

        :avocado: tags=device:vhost-user-fs-pci,hotplug
        """
        self.plug_virtiofs(self.build)
        with self.assertRaises(QmpRefused) as refused:
            self.plug_virtiofs(Build(self.build.profile, is_base=True))
        self.assertIn(REFUSAL_PHRASE, refused.exception.said)

    def plug_virtiofs(self, build: Build) -> None:
        """Plug virtiofs into a running guest, and exchange files."""
        spec = self.spec(modules=["virtiofs"], append="swiotlb=force")
        with (
            self.virtiofsd(build.name) as service,
            Machine(build.path("qemu-system-x86_64"), spec) as machine,
        ):
            machine.boot()
            machine.add_socket("fs", service.socket)
            fs = self.device("vhost-user-fs", chardev="fs", iommu_platform=True)
            machine.plug({**fs, **self.place.place})
            self.prove_virtiofs(machine)
            pool = "/sys/kernel/debug/swiotlb/io_tlb_used_hiwater"
            used = f"mount -t debugfs debug /sys/kernel/debug && cat {pool}"
            self.assertGreater(int(machine.console.check(used)), 0)
