"""PCI functions of an s390x machine, driven by its PCI instructions.

A guest there sees no buses: CALL LOGICAL PROCESSOR lists functions and enables them, and
PCI LOAD and PCI STORE access their spaces. No manual of these instructions is public. Their
operands are in include/hw/s390x/s390-pci-clp.h ("CLP" here) and s390-pci-inst.h ("FIB"), and
the tables in s390-pci-bus.h. "PCI" is the PCI Local Bus Specification 3.0.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qap.host.errors import QapError
from qap.hw.pci import DEVICE_ID, VENDOR_ID
from qap.hw.s390x_cpu import Cpu, Instruction
from qap.machine import qtest_command as command
from qap.machine.guest_memory import GuestMemory

# Each with its operands in registers 0, 2 and 3, or 4 and 5 where they are taken.
CALL_LOGICAL_PROCESSOR = bytes.fromhex("b9a00002")
PCI_LOAD = bytes.fromhex("b9d20002")
PCI_STORE = bytes.fromhex("b9d00002")
MODIFY_FUNCTION_CONTROLS = bytes.fromhex("e300400000d0")
REFRESH_TRANSLATIONS = bytes.fromhex("b9d30024")
SERVICE_CALL = bytes.fromhex("b2200042")

# CLP: commands, and blocks of a request and its response.
LIST_FUNCTIONS = 0x0002
QUERY_FUNCTION = 0x0003
SET_FUNCTION = 0x0005
CLP_OK = 0x0010
ENABLE, DISABLE = 0, 1
DMA_SPACES = 1
_HEADER = struct.Struct(">HH")
_REQUEST = struct.Struct(">HH4x8xIxxBBQ")
_LISTED = struct.Struct(">HHIII")
LISTED_CONFIGURED = 1 << 31
LISTED_AT = 32
LISTED_AT_ONCE = 64
RESUME_AT = 16
FUNCTION_AT = 16
QUERY_SIZE = 192
DMA_RANGE_AT = 64

# The handle's bit of an enabled function, and the number of configuration space; those of
# the BARs are 0 to 5.
HANDLE_ENABLED = 1 << 31
CONFIGURATION = 15

# FIB: register I/O address translation, with tables for it.
REGISTER_TRANSLATION = 4
UNREGISTER_TRANSLATION = 5
# FIB: set the address of the measurement block.
SET_MEASUREMENT = 10
MEASUREMENT_AT = 64
_FIB = struct.Struct(">8x8xQQQ")
FIB_SIZE = 88
TRANSLATION_ON = 0x800
REGION_THIRD = 1 << 2
TABLE_ENTRIES = 2048
REGION_ENTRY = 0x4 | 0x3
SEGMENT_FRAME = 0x400
SEGMENT_SHIFT = 20
REGION_SHIFT = 31

# include/hw/s390x/sclp.h: a command and its block, with what it is about and the response.
DECONFIGURE = 0x001B_0001
RECONFIGURED_PCI = 2
SCLP_DONE = 0x0020
_SCCB = struct.Struct(">HxxxxHBxxxI")

_AT_ONCE = 20
_REFUSED = {1: "an error", 2: "a busy function", 3: "an invalid handle"}


class ZpciError(QapError):
    """A function, or the machine, refused a request."""


class ZpciAccess(NamedTuple):
    """A load from a function's space, or a store into it.

    Attributes:
        space: 0 to 5 for a BAR, or CONFIGURATION.
        size: 1, 2, 4 or 8 bytes, within 8, or within 4 of configuration space.
        value: little-endian in the space, as registers are (PCI 6.1); None for a load.
    """

    space: int
    offset: int
    size: int
    value: int | None = None


@dataclass
class ZpciFunction:
    """A PCI function.

    Attributes:
        id: property `fid` of its zpci device.
        handle: identifies it in instructions; changes when it is enabled or disabled.
    """

    cpu: Cpu
    id: int
    handle: int

    def __str__(self) -> str:
        return f"zPCI function {self.id:#x}"

    @property
    def enabled(self) -> bool:
        return bool(self.handle & HANDLE_ENABLED)

    def enable(self) -> None:
        """Enable it; raises ZpciError if it is enabled, or gone."""
        self._set(ENABLE)

    def disable(self) -> None:
        """Disable it, which resets it; raises ZpciError if it is disabled, or gone."""
        self._set(DISABLE)

    def _set(self, operation: int) -> None:
        request = _REQUEST.pack(_REQUEST.size, SET_FUNCTION, self.handle, operation, DMA_SPACES, 0)
        response = _call(self.cpu, request, _REQUEST.size)
        (self.handle,) = struct.unpack_from(">I", response, FUNCTION_AT)

    def deconfigure(self) -> None:
        """Give it up, as a guest does when it is asked for an unplug.

        Raises:
            ZpciError: it is given up already, or gone.
        """
        block = _SCCB.pack(_SCCB.size, 0, RECONFIGURED_PCI, self.id)
        call = Instruction(SERVICE_CALL, {4: DECONFIGURE, 2: Cpu.DATA})
        _, answer = self.cpu.run([call], block)
        _, response, _, _ = _SCCB.unpack(answer)
        if response != SCLP_DONE:
            raise ZpciError(f"{self} is not given up: the answer is {response:#06x}")

    def run_all(self, accesses: Sequence[ZpciAccess]) -> list[int]:
        """Loads and stores in order; returns the value of each load, and 0 for a store.

        Raises:
            ZpciError: the function is not enabled, or in its error state. Later accesses
                were tried nevertheless.
            ProgramCheck: there is nothing of that size at that offset.
        """
        values: list[int] = []
        for first in range(0, len(accesses), _AT_ONCE):
            some = accesses[first : first + _AT_ONCE]
            results, _ = self.cpu.run([self._instruction(access) for access in some])
            for access, result in zip(some, results, strict=True):
                if result.condition:
                    raise ZpciError(f"{self} answers {access} with {_REFUSED[result.condition]}")
                loaded = access.value is None
                values.append(_swap(result.registers[0], access.size) if loaded else 0)
        return values

    def _instruction(self, access: ZpciAccess) -> Instruction:
        where = self.handle << 32 | access.space << 16 | access.size
        value = _swap(access.value or 0, access.size)
        code = PCI_LOAD if access.value is None else PCI_STORE
        return Instruction(code, {0: value, 2: where, 3: access.offset})

    def config_read(self, offset: int, size: int) -> int:
        """`size` (1, 2 or 4) bytes of configuration space; raises as `run_all` does."""
        return self.run_all([ZpciAccess(CONFIGURATION, offset, size)])[0]

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` (1, 2 or 4) bytes of configuration space; raises as `run_all` does."""
        self.run_all([ZpciAccess(CONFIGURATION, offset, size, value)])

    def config_bytes(self, offset: int, size: int) -> bytes:
        """A range of configuration space, aligned to 4 bytes at both ends."""
        places = range(offset, offset + size, 4)
        words = self.run_all([ZpciAccess(CONFIGURATION, at, 4) for at in places])
        return b"".join(word.to_bytes(4, "little") for word in words)

    @property
    def vendor_id(self) -> int:
        return self.config_read(VENDOR_ID, 2)

    @property
    def device_id(self) -> int:
        return self.config_read(DEVICE_ID, 2)

    def dma_range(self) -> range:
        """The addresses that it may use for DMA, once they are translated."""
        request = _REQUEST.pack(_REQUEST.size, QUERY_FUNCTION, self.handle, 0, 0, 0)
        response = _call(self.cpu, request, QUERY_SIZE)
        first, last = struct.unpack_from(">QQ", response, DMA_RANGE_AT)
        return range(first, last + 1)

    def translate(self, memory: GuestMemory, iova: int, physical: int, size: int) -> None:
        """Let its DMA at `iova` reach guest memory at `physical`, and nothing else.

        All three are multiples of 1 MiB, and the range is within 2 GiB of IOVAs.

        Args:
            memory: for 32 KiB of tables.
        Raises:
            ZpciError: the function is not enabled, or is translated already.
            ProgramCheck: the range is outside of `dma_range`.
        """
        table_size = 8 * TABLE_ENTRIES
        region, segment = (memory.take(table_size, table_size) for _ in range(2))
        entries = [
            physical + offset | SEGMENT_FRAME for offset in range(0, size, 1 << SEGMENT_SHIFT)
        ]
        first = (iova >> SEGMENT_SHIFT) % TABLE_ENTRIES
        self.cpu.qtest.run_all(
            [
                command.writeq(
                    region + 8 * ((iova >> REGION_SHIFT) % TABLE_ENTRIES), segment | REGION_ENTRY
                ),
                command.b64write(segment + 8 * first, struct.pack(f">{len(entries)}Q", *entries)),
            ]
        )
        anchor = region | TRANSLATION_ON | REGION_THIRD
        block = _FIB.pack(iova, iova + size - 1, anchor)
        modify = {0: self.handle << 32 | REGISTER_TRANSLATION, 4: Cpu.DATA}
        refresh = {2: self.handle << 32, 4: iova, 5: size}
        self._control(
            [
                Instruction(MODIFY_FUNCTION_CONTROLS, modify),
                Instruction(REFRESH_TRANSLATIONS, refresh),
            ],
            block,
        )

    def untranslate(self) -> None:
        """Remove its DMA translation; raises as `translate` does."""
        modify = {0: self.handle << 32 | UNREGISTER_TRANSLATION, 4: Cpu.DATA}
        self._control([Instruction(MODIFY_FUNCTION_CONTROLS, modify)], b"")

    def measure(self, address: int) -> None:
        """Let it write its measurement block, of 64 bytes, there from time to time.

        The address is a multiple of 16. Raises ZpciError if the function is not enabled.
        """
        modify = {0: self.handle << 32 | SET_MEASUREMENT, 4: Cpu.DATA}
        block = bytes(MEASUREMENT_AT) + address.to_bytes(8, "big")
        self._control([Instruction(MODIFY_FUNCTION_CONTROLS, modify)], block)

    def _control(self, instructions: Sequence[Instruction], block: bytes) -> None:
        results, _ = self.cpu.run(instructions, block + bytes(FIB_SIZE - len(block)))
        for result in results:
            if result.condition:
                raise ZpciError(f"{self} answers with {_REFUSED[result.condition]}")


def zpci_functions(cpu: Cpu) -> list[ZpciFunction]:
    """The configured functions, in the order of their creation."""
    functions: list[ZpciFunction] = []
    resume = 0
    while True:
        request = struct.pack(">HH4x8xQ8x", _REQUEST.size, LIST_FUNCTIONS, resume)
        response = _call(cpu, request, LISTED_AT + LISTED_AT_ONCE * _LISTED.size)
        (length, _), (resume,) = (
            _HEADER.unpack_from(response),
            struct.unpack_from(">Q", response, RESUME_AT),
        )
        for _, _, config, function_id, handle in _LISTED.iter_unpack(response[LISTED_AT:length]):
            if config & LISTED_CONFIGURED:
                functions.append(ZpciFunction(cpu, function_id, handle))
        if not resume:
            return functions


def _call(cpu: Cpu, request: bytes, size: int) -> bytes:
    """The response to a request; raises ZpciError where it is none."""
    room = _HEADER.pack(size, 0) + bytes(size - _HEADER.size)
    (called,), data = cpu.run([Instruction(CALL_LOGICAL_PROCESSOR, {2: Cpu.DATA})], request + room)
    response = data[len(request) :]
    _, code = _HEADER.unpack_from(response)
    if called.condition or code != CLP_OK:
        _, asked = _HEADER.unpack_from(request)
        raise ZpciError(f"CALL LOGICAL PROCESSOR answers {asked:#06x} with {code:#06x}")
    return response


def _swap(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(8, "big")[-size:], "little")
