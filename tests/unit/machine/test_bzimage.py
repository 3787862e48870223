"""The kernel out of a bzImage that we put together ourselves."""

import lzma
import struct

from qap.machine.guest.bzimage import vmlinux

ELF = b"\x7fELF" + bytes(range(256)) * 40


def bzimage(
    payload: bytes, *, version: int = 0x20F, setup_sects: int = 3, before: int = 64
) -> bytes:
    """A boot sector and setup with this header, then the payload `before` bytes on."""
    size = (setup_sects + 1) * 512
    head = bytearray(size)
    head[0x1F1] = setup_sects
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<II", head, 0x248, before, len(payload))
    return bytes(head) + b"\xcc" * before + payload + b"\xee" * 100


def test_compressed_kernel_is_found_and_unpacked() -> None:
    payload = lzma.compress(ELF) + struct.pack("<I", len(ELF))
    assert vmlinux(bzimage(payload)) == ELF


def test_image_of_another_architecture_has_none() -> None:
    assert vmlinux(b"\0" * 4096) is None


def test_protocol_without_payload_fields_has_none() -> None:
    payload = lzma.compress(ELF) + struct.pack("<I", len(ELF))
    assert vmlinux(bzimage(payload, version=0x207)) is None


def test_payload_that_is_no_elf_or_broken_has_none() -> None:
    text = lzma.compress(b"not a kernel") + bytes(4)
    assert vmlinux(bzimage(text)) is None
    assert vmlinux(bzimage(lzma.compress(ELF)[:-30] + bytes(4))) is None
