"""The machine's table of named items, as a PC's firmware reads and writes it.

The interface is docs/specs/fw_cfg.rst of QEMU's source ("fw_cfg").
"""

import struct
from dataclasses import dataclass

from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.machine.guest_memory import GuestMemory

# fw_cfg, "x86, x86_64 Register Locations": the DMA address register's lower half.
DMA_LOW = 0x518
# fw_cfg, "File Directory": the item that lists files, and an entry of it.
DIRECTORY = 0x0019
_FILE = struct.Struct(">IHxx56s")
FILES = 128
# fw_cfg, "Guest-side DMA Interface": what the lower half of a control word says.
ERROR, READ, SELECT, WRITE = 1 << 0, 1 << 1, 1 << 3, 1 << 4
_ACCESS = struct.Struct(">IIQ")
ANSWER_S = 10.0


class FwCfgError(QapError):
    """The machine has no such file, or refused to transfer it."""


@dataclass
class FwCfg:
    """The table of a PC; `memory` is for what is transferred, below 4 GiB."""

    memory: GuestMemory

    def write(self, name: str, content: bytes) -> None:
        """Replace the file; raises FwCfgError."""
        self._transfer(self._find(name), WRITE, self.memory.put(content), len(content))

    def read(self, key: int, size: int) -> bytes:
        """The first bytes of the item with this key; raises FwCfgError."""
        room = self.memory.take(size)
        self._transfer(key, READ, room, size)
        return self.memory.read(room, size)

    def _find(self, name: str) -> int:
        size = 4 + FILES * _FILE.size
        listed = self.read(DIRECTORY, size)
        (count,) = struct.unpack_from(">I", listed)
        for index in range(min(count, FILES)):
            _, key, found = _FILE.unpack_from(listed, 4 + index * _FILE.size)
            if found.rstrip(b"\0") == name.encode():
                return int(key)
        raise FwCfgError(f"fw_cfg has no file {name}")

    def _transfer(self, key: int, how: int, address: int, size: int) -> None:
        control = key << 16 | SELECT | how
        access = self.memory.put(_ACCESS.pack(control, size, address))
        self.memory.qtest.outl(DMA_LOW, int.from_bytes(access.to_bytes(4, "big"), "little"))

        def done() -> int | None:
            left = int.from_bytes(self.memory.read(access, 4), "big")
            return left if left in (0, ERROR) else None

        if poll_until(done, ANSWER_S, lambda: "fw_cfg's transfer"):
            raise FwCfgError(f"fw_cfg refuses to transfer item {key:#x}")
