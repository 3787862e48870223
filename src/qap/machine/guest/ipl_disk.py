"""A disk that the s390x firmware can boot (IPL): a kernel that carries its own initramfs.

The disk is an ISO 9660 image with an El Torito boot entry, and the entry is one file that
the firmware loads at address 0: the kernel, and behind it the initramfs. Offsets are those
of the kernel's parameter area (struct parmarea, arch/s390/include/asm/setup.h in Linux).
"""

import struct
from pathlib import Path

import libarchive

from qap.host.errors import QapError

INITRD_START = 0x10408  # u64, big-endian; the size follows it
MAX_COMMAND_LINE_SIZE = 0x10430  # u64, with the NUL at the end
COMMAND_LINE = 0x10480
MAGIC = (0x10008, b"S390EP")
MIB = 1 << 20
NAME = "image"


def ipl_image(kernel: bytes, initrd: bytes, append: str) -> bytes:
    """A kernel, its initramfs and its command line as one image to load at address 0.

    Args:
        kernel: what arch/s390 builds as bzImage.
        append: the command line.
    Raises:
        QapError: this is no such kernel, or its command line can't be that long.
    """
    offset, magic = MAGIC
    if kernel[offset : offset + len(magic)] != magic:
        raise QapError("this is no s390x kernel: it has no S390EP at 0x10008")
    image = bytearray(kernel)
    line = append.encode() + b"\0"
    (limit,) = struct.unpack_from(">Q", image, MAX_COMMAND_LINE_SIZE)
    if len(line) > limit:
        raise QapError(f"a command line of {len(line)} bytes: this kernel takes {limit}")
    # Room in between for what the kernel's decompressor needs behind the kernel.
    start = (len(image) // MIB + 2) * MIB
    struct.pack_into(">QQ", image, INITRD_START, start, len(initrd))
    image[COMMAND_LINE : COMMAND_LINE + len(line)] = line
    return bytes(image.ljust(start, b"\0") + initrd)


def write_ipl_disk(target: Path, image: bytes) -> None:
    """Write a disk that boots `image` (see `ipl_image`)."""
    options = f"boot={NAME},boot-type=no-emulation"
    with libarchive.file_writer(str(target), "iso9660", options=options) as disk:
        disk.add_file_from_memory(NAME, len(image), image)
