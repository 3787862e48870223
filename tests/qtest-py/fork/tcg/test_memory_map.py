"""A CPU under TCG reads device registers while the memory map changes under it.

PCI hot plug does that to a running guest: each BAR that is mapped or unmapped makes a new map.
"""

from pathlib import Path

from qap.hw.pci import COMMAND, COMMAND_MEMORY_SPACE
from qap.hw.pci_bus import PciBus
from qap.hw.x86_cpu import Mode
from qap.hw.x86_page_tables import Shape
from qap.verify.kit.sev_guest import FREE, started

# 82093AA IOAPIC data sheet, 3.0 and 3.2.2.
IOAPIC = 0xFEC0_0000
IOREGSEL, IOWIN = 0x00, 0x10
IOAPICVER = 0x01

STOP = 0x1700
# So many that some come in the middle of a block, however the CPU and this side keep in step.
CHANGES = 10000
# x87 instructions before each access, so that most changes come between the start of a
# translation block and the access at its end.
LENGTH = 200
LOOP = (
    b"\xd9\xfe" * LENGTH  # fsin
    + b"\x8b\x03"  # mov (%rbx), %eax
    + b"\xff\xc1"  # inc %ecx
    + b"\x39\xd0"  # cmp %edx, %eax
    + b"\x75\x0e"  # jne out
    + b"\x83\x3c\x25"
    + STOP.to_bytes(4, "little")
    + b"\x00"  # cmpl $0, STOP
)


def looping() -> bytes:
    """Code that reads the register at RBX until it is not EDX or STOP is not 0; ECX counts."""
    head = b"\xdb\xe3\xd9\xe8"  # fninit; fld1
    back = -(len(LOOP) + 6)
    return head + LOOP + b"\x0f\x84" + back.to_bytes(4, "little", signed=True)  # je to LOOP


def test_cpu_reads_the_same_register_whatever_the_map(tmp_path: Path) -> None:
    device = {"driver": "virtio-rng-pci", "id": "dut"}
    with started(tmp_path, Mode.LONG, sim=False, devices=[device]) as guest:
        qtest = guest.machine.qtest
        function = PciBus(qtest).find(0x1AF4, 0x1005)
        function.map_bars()
        at = FREE[Mode.LONG]
        cr3 = guest.tables.map(Shape(at, IOAPIC))
        qtest.writel(IOAPIC + IOREGSEL, IOAPICVER)
        version = qtest.readl(IOAPIC + IOWIN)
        qtest.writel(STOP, 0)
        guest.cpu.begin(looping(), cr3, {"rbx": at + IOWIN, "rdx": version})
        for change in range(CHANGES):
            function.config_write(COMMAND, 2, COMMAND_MEMORY_SPACE * (change % 2))
        qtest.writel(STOP, 1)
        seen, _, reads, _ = guest.cpu.end()
        assert (hex(seen), reads > CHANGES // 10) == (hex(version), True)
