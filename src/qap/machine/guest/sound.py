"""Sound that a guest plays."""

import hashlib
import time
from typing import Protocol

from qap.host.errors import QapError
from qap.machine.guest.console import Console

# Half a second: /dev/dsp begins with 8000 samples a second, of a byte.
BYTES, RATE = 4000, 8000


class SoundMismatch(QapError):
    """What was heard is not what the guest played."""


class Ear(Protocol):
    """What hears the guest, such as `qap.vhost_user.sound.Loudspeaker`.

    Attributes:
        heard: the samples that the guest has played; silence may follow them.
    """

    heard: bytearray


def play(console: Console, name: str, ear: Ear | None = None) -> list[str]:
    """Play half a second of noise; it ends when the device has played it.

    Args:
        name: of the device under /sys/bus/virtio/devices.
        ear: what must hear it, if anything can.
    Raises:
        GuestCommandError, TimeoutError: it can't.
        SoundMismatch: something else was heard, or it was played too fast.
    """
    card = f"/sys/bus/virtio/devices/{name}/sound/card*"
    console.check(
        f'await "ls -d {card} && test -c /dev/dsp" && '
        f"dd if=/dev/urandom of=/tmp/sound bs={BYTES} count=1 2>/dev/null"
    )
    start = time.monotonic()
    script = f"dd if=/tmp/sound of=/dev/dsp bs={BYTES} count=1 2>/dev/null && sha256sum /tmp/sound"
    played = console.check(script).split()[0]
    seconds = time.monotonic() - start
    said = [f"guest played {BYTES} samples"]
    if ear is None:
        return said
    heard = hashlib.sha256(ear.heard[:BYTES]).hexdigest()
    if heard != played:
        raise SoundMismatch(
            f"of {len(ear.heard)} bytes that were heard the first {BYTES} have SHA-256 "
            f"{heard[:16]}…, and the guest played {played[:16]}…"
        )
    if seconds < BYTES / RATE:
        raise SoundMismatch(f"{BYTES} samples were played in {seconds:.2f} s, at {RATE} a second")
    return [*said, f"its back-end heard them, SHA-256 {heard[:12]}… on both sides"]
