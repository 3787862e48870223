"""What -kernel adds for a kernel of a simulated SEV-SNP guest, and which kernels it refuses.

The blob is struct cc_setup_data of Linux's arch/x86/include/asm/coco.h and what it points to;
the CPUID page is that of AMD's SEV-SNP Firmware ABI Specification (56860).
"""

import struct
from pathlib import Path

import pytest

from qap.hw.fw_cfg import FwCfg
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import QemuDied
from qap.verify.kit.simulated_guest import MEMORY
from qap.verify.kit.snp_guest import snp_started

SETUP = 0x0018  # fw_cfg's item with the header
ROOM = 32 * MIB
PAGE = 0x1000
SETUP_CC_BLOB = 7
SECTOR = 512
# Offsets in a kernel's header (Linux, Documentation/arch/x86/boot.rst).
SECTORS, BOOT_FLAG, MAGIC, VERSION, LOADFLAGS, SETUP_DATA = 0x1F1, 0x1FE, 0x202, 0x206, 0x211, 0x250
XSAVE_LEAF = 0xD


def kernel(folder: Path, version: int = 0x20F, magic: bytes = b"HdrS") -> str:
    """A file that is a bzImage as far as its header goes; nothing runs it."""
    image = bytearray(8 * SECTOR)
    image[SECTORS] = 1
    struct.pack_into("<H", image, BOOT_FLAG, 0xAA55)
    struct.pack_into("<4sH", image, MAGIC, magic, version)
    image[LOADFLAGS] = 1
    path = folder / "bzImage"
    path.write_bytes(image)
    return str(path)


@pytest.mark.parametrize("cpu", ["max", "EPYC-Milan", "max,level=0xfffffffe,xlevel=0xfffffffe"])
def test_kernel_is_told_of_its_pages(tmp_path: Path, cpu: str) -> None:
    """They are below 4 GiB, where no other memory ends; CPUID there is that of the CPU."""
    with snp_started(tmp_path, cpu=cpu, extra=["-kernel", kernel(tmp_path)]) as guest:
        read = guest.machine.qtest.read
        table = FwCfg(GuestMemory(guest.machine.qtest, ROOM, MIB))
        (at,) = struct.unpack_from("<Q", table.read(SETUP, 2 * SECTOR), SETUP_DATA)
        assert at == MEMORY * MIB - 3 * PAGE
        following, kind, size, blob = struct.unpack("<QIII", read(at, 20))
        assert (following, kind, size) == (0, SETUP_CC_BLOB, 4)
        magic, version, _, secrets, secrets_size, _, cpuid, cpuid_size, _ = struct.unpack(
            "<IHHQIIQII", read(blob, 40)
        )
        assert (magic.to_bytes(4, "little"), version) == (b"AMDE", 1)
        assert (secrets, secrets_size) == (at + PAGE, PAGE)
        assert (cpuid, cpuid_size) == (at + 2 * PAGE, PAGE)
        assert read(secrets, PAGE) == struct.pack("<I", 3).ljust(PAGE, b"\0")

        count, _, _ = struct.unpack("<IIQ", read(cpuid, 16))
        leaves = struct.iter_unpack("<IIQQIIIIQ", read(cpuid + 16, 48 * count))
        seen = set()
        for leaf, index, _, _, *registers, reserved in leaves:
            assert (leaf, index) not in seen
            assert reserved == 0
            seen.add((leaf, index))
            if index == 0 and leaf != XSAVE_LEAF:
                assert registers == guest.bare.cpu.cpuid(leaf, guest.bare.home)
        assert {(0, 0), (1, 0), (0x8000_0000, 0), (0x8000_001F, 0)} < seen


def test_kernel_that_can_not_be_told_is_refused(tmp_path: Path) -> None:
    """One of an old protocol, and one that is no bzImage."""
    for version, magic, why in (
        (0x208, b"HdrS", "Linux kernel too old"),
        (0x20F, b"none", "-kernel has to be a Linux bzImage"),
    ):
        assert why in refusal(tmp_path, kernel(tmp_path, version, magic))


def refusal(folder: Path, image: str) -> str:
    """What QEMU says when it refuses to start."""
    with pytest.raises(QemuDied) as died, snp_started(folder, extra=["-kernel", image]):
        pass
    assert died.value.status == 1, died.value.detail
    return died.value.said
