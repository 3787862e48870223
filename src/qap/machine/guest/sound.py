"""Sound that a guest plays."""

from qap.machine.guest.console import Console

# Half a second: /dev/dsp begins with 8000 samples a second, of a byte.
BYTES = 4000


def play(console: Console, name: str) -> list[str]:
    """Play half a second; it ends when the device has played it.

    Args:
        name: of the device under /sys/bus/virtio/devices.
    Raises:
        GuestCommandError, TimeoutError: it can't.
    """
    card = f"/sys/bus/virtio/devices/{name}/sound/card*"
    console.check(
        f'await "ls -d {card} && test -c /dev/dsp" && '
        f"dd if=/dev/zero of=/dev/dsp bs={BYTES} count=1 2>/dev/null"
    )
    return [f"guest played {BYTES} samples"]
