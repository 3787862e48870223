"""The commands of the QTest protocol as data: a line to send, and how to read its answer.

The protocol is described at the top of QEMU's system/qtest.c. Memory addresses are
those of the first CPU's address space. An argument that would make QEMU abort raises
ValueError here instead.
"""

import base64
import re
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T_co = TypeVar("T_co", covariant=True)
IO_PORTS = 0x10000


class QtestCommand(NamedTuple, Generic[T_co]):
    """One command.

    Attributes:
        line: what is sent, without the newline.
        parse: what the text after "OK" means; raises ValueError if it means nothing.
    """

    line: str
    parse: Callable[[str], T_co]

    @property
    def answers(self) -> bool:
        """Whether its answer is more than that it is done."""
        return self.parse is not _nothing


def _nothing(said: str) -> None:
    if said:
        raise ValueError(said)


def _number(said: str) -> int:
    return int(said, 16)


def _nanoseconds(said: str) -> int:
    return int(said)


def _hex(said: str) -> bytes:
    prefix, digits = said[:2], said[2:]
    if prefix != "0x":
        raise ValueError(said)
    return bytes.fromhex(digits)


def _base64(said: str) -> bytes:
    return base64.b64decode(said, validate=True)


def _endianness(said: str) -> str:
    if said not in ("little", "big"):
        raise ValueError(said)
    return said


def readb(address: int) -> QtestCommand[int]:
    return QtestCommand(f"readb {address:#x}", _number)


def readw(address: int) -> QtestCommand[int]:
    """A word of 2 bytes, in the target's byte order; readl: 4 bytes; readq: 8."""
    return QtestCommand(f"readw {address:#x}", _number)


def readl(address: int) -> QtestCommand[int]:
    return QtestCommand(f"readl {address:#x}", _number)


def readq(address: int) -> QtestCommand[int]:
    return QtestCommand(f"readq {address:#x}", _number)


def writeb(address: int, value: int) -> QtestCommand[None]:
    return _store("writeb", address, value, 1)


def writew(address: int, value: int) -> QtestCommand[None]:
    """A word of 2 bytes, in the target's byte order; writel: 4 bytes; writeq: 8."""
    return _store("writew", address, value, 2)


def writel(address: int, value: int) -> QtestCommand[None]:
    return _store("writel", address, value, 4)


def writeq(address: int, value: int) -> QtestCommand[None]:
    return _store("writeq", address, value, 8)


def inb(port: int) -> QtestCommand[int]:
    return QtestCommand(f"inb {_port(port):#x}", _number)


def inw(port: int) -> QtestCommand[int]:
    return QtestCommand(f"inw {_port(port):#x}", _number)


def inl(port: int) -> QtestCommand[int]:
    return QtestCommand(f"inl {_port(port):#x}", _number)


def outb(port: int, value: int) -> QtestCommand[None]:
    return _store("outb", _port(port), value, 1)


def outw(port: int, value: int) -> QtestCommand[None]:
    return _store("outw", _port(port), value, 2)


def outl(port: int, value: int) -> QtestCommand[None]:
    return _store("outl", _port(port), value, 4)


def read(address: int, size: int) -> QtestCommand[bytes]:
    """`size` bytes, at least one, carried as hexadecimal digits."""
    return QtestCommand(f"read {address:#x} {_some(size):#x}", _hex)


def write(address: int, data: bytes) -> QtestCommand[None]:
    """All of `data`, at least one byte, carried as hexadecimal digits."""
    return QtestCommand(f"write {address:#x} {_some(len(data)):#x} 0x{data.hex()}", _nothing)


def b64read(address: int, size: int) -> QtestCommand[bytes]:
    """`size` bytes, at least one, carried in base64: cheaper than `read` for pages."""
    return QtestCommand(f"b64read {address:#x} {_some(size):#x}", _base64)


def b64write(address: int, data: bytes) -> QtestCommand[None]:
    """All of `data`, at least one byte, carried in base64."""
    carried = base64.b64encode(data).decode()
    return QtestCommand(f"b64write {address:#x} {_some(len(data)):#x} {carried}", _nothing)


def memset(address: int, size: int, value: int) -> QtestCommand[None]:
    """Fill `size` bytes, perhaps none, with one value."""
    if size < 0:
        raise ValueError(f"{size} bytes")
    return QtestCommand(f"memset {address:#x} {size:#x} {_fits(value, 1):#x}", _nothing)


def clock_step(nanoseconds: int | None = None) -> QtestCommand[int]:
    """Advance the virtual clock, to its next deadline if None; answers the time in ns.

    QEMU fails the command where the clock did not move, and knows it only under
    -accel qtest.
    """
    return QtestCommand(" ".join(["clock_step", *_given(nanoseconds)]), _nanoseconds)


def clock_set(nanoseconds: int) -> QtestCommand[int]:
    """Advance the virtual clock to a time in ns; answers the time. See `clock_step`."""
    return QtestCommand(f"clock_set {nanoseconds}", _nanoseconds)


def irq_intercept_in(path: str) -> QtestCommand[None]:
    """Report changes of the GPIO inputs of the device at a QOM path.

    QEMU intercepts for one device in its lifetime and fails for a second one.
    """
    return QtestCommand(f"irq_intercept_in {_word(path)}", _nothing)


def irq_intercept_out(path: str, name: str | None = None) -> QtestCommand[None]:
    """Take over GPIO outputs, unnamed unless `name` is given, and report their changes."""
    words = ["irq_intercept_out", _word(path), *([_word(name)] if name else [])]
    return QtestCommand(" ".join(words), _nothing)


def set_irq_in(path: str, name: str | None, number: int, level: int) -> QtestCommand[None]:
    """Force a GPIO input, of the unnamed list if `name` is None, to a level."""
    listed = _word(name or "unnamed-gpio-in")
    return QtestCommand(f"set_irq_in {_word(path)} {listed} {number} {level}", _nothing)


def endianness() -> QtestCommand[str]:
    """The target's byte order, "little" or "big"."""
    return QtestCommand("endianness", _endianness)


def _store(name: str, address: int, value: int, size: int) -> QtestCommand[None]:
    return QtestCommand(f"{name} {address:#x} {_fits(value, size):#x}", _nothing)


def _fits(value: int, size: int) -> int:
    if not 0 <= value < 1 << 8 * size:
        raise ValueError(f"{value:#x} does not fit into {size} bytes")
    return value


def _port(port: int) -> int:
    if not 0 <= port < IO_PORTS:
        raise ValueError(f"there is no I/O port {port:#x}")
    return port


def _some(size: int) -> int:
    if size < 1:
        raise ValueError(f"{size} bytes")
    return size


def _given(number: int | None) -> list[str]:
    return [] if number is None else [str(number)]


def _word(text: str) -> str:
    if not text or re.search(r"\s", text):
        raise ValueError(f"{text!r} is no word")
    return text
