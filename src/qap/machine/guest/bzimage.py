"""The ELF kernel in an x86 bzImage, extracted so that the guest need not decompress it.

Offsets are those of the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst in
Linux): a real-mode part of setup_sects sectors, then a part that holds the payload.
"""

import struct

import libarchive

SECTOR = 512
SETUP_SECTS = 0x1F1
MAGIC = 0x202
VERSION = 0x206
PAYLOAD = 0x248
WITH_PAYLOAD = 0x208  # protocol 2.08 brought payload_offset and payload_length
SIZE = 4  # what follows a compressed payload: its uncompressed size, a u32


def vmlinux(image: bytes) -> bytes | None:
    """The ELF kernel in a bzImage, or None if it has none that can be extracted.

    Args:
        image: the whole bzImage.
    """
    if image[MAGIC : MAGIC + 4] != b"HdrS":
        return None
    (version,) = struct.unpack_from("<H", image, VERSION)
    if version < WITH_PAYLOAD:
        return None
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    start = (image[SETUP_SECTS] + 1) * SECTOR + offset
    payload = image[start : start + length - SIZE]
    try:
        with libarchive.memory_reader(payload, format_name="raw") as archive:
            kernel = b"".join(block for entry in archive for block in entry.get_blocks())
    except libarchive.ArchiveError:
        return None
    return kernel if kernel.startswith(b"\x7fELF") else None
