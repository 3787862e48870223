"""Memory that a device gives a guest: virtio-mem and virtio-pmem."""

import hashlib
from pathlib import Path

from qap.host.wait import poll_until
from qap.machine.guest.balloon import TOTAL
from qap.machine.guest.console import Console
from qap.machine.guest.io_checks import MIB, DataMismatch
from qap.machine.qmp import Qmp

GIVEN = 128 * MIB
PLUGGED_S = 30.0


def grow(console: Console, qmp: Qmp, device: str) -> list[str]:
    """Offer the guest more memory through virtio-mem, and see it used.

    Args:
        device: the ID of the device.
    Raises:
        TimeoutError: the driver does not plug it, or the kernel does not use it.
    """
    before = int(console.check(TOTAL))
    path = f"/machine/peripheral/{device}"
    wanted = GIVEN + qmp.execute("qom-get", path=path, property="requested-size")
    qmp.execute("qom-set", path=path, property="requested-size", value=wanted)

    def plugged() -> bool | None:
        return True if qmp.execute("qom-get", path=path, property="size") == wanted else None

    poll_until(plugged, PLUGGED_S, lambda: f"the guest to plug {GIVEN // MIB} MiB")
    more = f"test $({TOTAL}) -gt {before + (GIVEN >> 11)}".replace("$", "\\$")
    console.check(f'await "{more}"', PLUGGED_S)
    return [f"guest plugged {GIVEN // MIB} MiB, and its kernel uses them"]


def store(console: Console, file: Path) -> list[str]:
    """Write to /dev/pmem0, flush, and find it in the file behind the device.

    Raises:
        DataMismatch: it is not there.
    """
    wrote = console.check(
        'await "test -b /dev/pmem0" && dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null '
        "&& dd if=/tmp/data of=/dev/pmem0 bs=1M seek=8 conv=fsync 2>/dev/null && "
        "sha256sum </tmp/data"
    ).split()[0]
    with file.open("rb") as image:
        image.seek(8 * MIB)
        host = hashlib.sha256(image.read(MIB)).hexdigest()
    if host != wrote:
        raise DataMismatch("the guest wrote and flushed 1 MiB that is not in the file")
    return [f"guest wrote and flushed 1 MiB, SHA-256 {host[:12]}… on both sides"]
