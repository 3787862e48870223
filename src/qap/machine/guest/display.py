"""A picture that a guest draws, as QEMU's display shows it."""

from pathlib import Path

from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.machine.guest.console import Console
from qap.machine.qmp import Qmp

SHOWN_S = 20.0
GREY = 0xAA
FILL = (
    "size=$(sed 's/,/ * /' /sys/class/graphics/fb0/virtual_size) && "
    f"head -c $(($size * 4)) /dev/zero | tr '\\000' '\\{GREY:o}' >/dev/fb0"
)


class NoPicture(QapError):
    """QEMU's screen dump is none."""


def draw(console: Console, qmp: Qmp, folder: Path) -> list[str]:
    """Fill the guest's frame buffer with grey, and find it on QEMU's screen.

    Args:
        folder: for the screen dump.
    Raises:
        TimeoutError: it does not appear.
    """
    file = folder / "screen.ppm"
    console.check(f'await "test -c /dev/fb0" && {FILL}')

    def shown() -> str | None:
        qmp.execute("screendump", filename=str(file))
        size, middle = _middle(file.read_bytes())
        return size if middle == bytes([GREY] * 3) else None

    size = poll_until(shown, SHOWN_S, lambda: "what the guest draws to be on QEMU's screen")
    return [f"guest drew on the screen, {size}"]


def _middle(dump: bytes) -> tuple[str, bytes]:
    """Width and height of a PPM picture (netpbm's P6), and the pixel in its middle."""
    magic, width, height = dump.split(maxsplit=3)[:3]
    if magic != b"P6":
        raise NoPicture(f"QEMU's screen dump begins with {magic!r}")
    at = 3 * (int(height) // 2 * int(width) + int(width) // 2)
    # The pixels are what ends the file.
    at -= 3 * int(width) * int(height)
    return f"{width.decode()}x{height.decode()}", dump[at : at + 3]
