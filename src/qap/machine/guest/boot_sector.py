"""A boot sector for x86 firmware: it reports on the serial port that it runs, and halts.

A PC's firmware loads it at 0000:7C00 in real mode, the BIOS from a disk's first sector, and
PXE firmware from the network (PXE 2.1, 4.4.5).
"""

SECTOR = 512
SIGNATURE = b"\x55\xaa"
COM1 = 0x3F8
READY = b"qap-ready sector\n"


def boot_sector() -> bytes:
    """512 bytes that print the line which `Console.wait_ready` waits for on the first serial port.

    `wait_ready` returns “sector” then.
    """
    code = b"\xba" + COM1.to_bytes(2, "little")  # mov dx, COM1
    for letter in READY:
        code += b"\xb0" + bytes([letter]) + b"\xee"  # mov al, letter; out dx, al
    code += b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to the hlt
    return code.ljust(SECTOR - len(SIGNATURE), b"\0") + SIGNATURE
