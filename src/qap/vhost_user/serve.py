"""A back-end in Python by hand: python -m qap.vhost_user.serve TYPE SOCKET FEATURES [IMAGE].

TYPE is a vhost-user device type of configs/devices.toml; FEATURES is what it offers, as
`qap repro --backend` takes it; IMAGE is the disk of a vhost-user-scsi. It serves until it is
interrupted. A vhost-user-input presses and releases the key A at each SIGUSR1.
"""

import os
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from qap.explain.backend import Told, features
from qap.host.errors import Exit, QapError, UsageError
from qap.machine.guest.input_events import KEY_A
from qap.oracle.features import mask
from qap.vhost_user.backend import Backend
from qap.vhost_user.backends import backend
from qap.vhost_user.chain_service import ChainService, fill
from qap.vhost_user.crypto import CryptoHost
from qap.vhost_user.input import Keyboard, selected
from qap.vhost_user.memory.dirty_log import LOG_ALL
from qap.vhost_user.net import NetHost
from qap.vhost_user.protocol import ProtocolFeature
from qap.vhost_user.scsi import ScsiHost
from qap.vhost_user.scsi_disk import BLOCK, ScsiDisk
from qap.vhost_user.sound import CONFIG as SOUND_CONFIG
from qap.vhost_user.sound import Loudspeaker
from qap.vhost_user.vsock import VsockHost

GUEST_CID = 42
PORT = 1234
VSOCK = "vhost-user-vsock"
RNG = "vhost-user-rng"
NET = "vhost-user-net"
CRYPTO = "vhost-user-crypto"
SCSI = "vhost-user-scsi"
INPUT = "vhost-user-input"
SND = "vhost-user-snd"
# Configuration space, where it is not zeroes: of the sound device one stream, no jacks, no maps.
CONFIGS = {VSOCK: struct.pack("<Q", GUEST_CID), SND: SOUND_CONFIG.pack(0, 1, 0)}
# Those that log what they write, so that QEMU migrates the VM.
LOGGING = (SCSI, NET)
# What ends it.
ENDS = (signal.SIGINT, signal.SIGTERM)


def randomness(queue: int, readable: bytes, room: int) -> bytes:
    """A `ChainService` of a random number generator (virtio 1.3, 5.4)."""
    return os.urandom(room)


def service(kind: str, image: Path | None = None) -> ChainService:
    """What a guest's driver of this device type can use.

    Args:
        image: the disk of a vhost-user-scsi.
    Raises:
        UsageError: there is no such image.
    """
    if kind == SCSI:
        return ScsiHost(ScsiDisk(_usable(kind, image)))
    hosts: Mapping[str, Callable[[], ChainService]] = {
        VSOCK: lambda: VsockHost(PORT, os.urandom(1 << 20)),
        NET: NetHost,
        CRYPTO: CryptoHost,
        INPUT: Keyboard,
        SND: Loudspeaker,
        RNG: lambda: randomness,
    }
    return hosts.get(kind, lambda: fill)()


def _usable(kind: str, image: Path | None) -> Path:
    """An image that has a block.

    Raises:
        UsageError: it has none, or is not there.
    """
    try:
        if image is not None and image.is_file() and image.stat().st_size >= BLOCK:
            return image
    except OSError as exc:
        raise UsageError(f"{image}: {exc.strerror}") from exc
    raise UsageError(f"{kind} serves a disk: name its image, of {BLOCK} bytes or more, not {image}")


def serving(path: Path, kind: str, offers: Told, serves: ChainService) -> Backend:
    """A back-end that offers what it is told to.

    Raises:
        UsageError: no such device type.
        QapError: the socket can't be made.
    """
    made = backend(
        path,
        kind,
        access_platform=offers.offers,
        version_1=offers.version_1,
        ring_packed=offers.ring_packed,
        config=CONFIGS.get(kind),
        service=serves,
    )
    if isinstance(serves, Keyboard):
        made.selects, serves.wake = selected, made.wake
    if kind in LOGGING:
        made.features |= 1 << LOG_ALL
        made.protocol_features |= mask((ProtocolFeature.LOG_SHMFD,))
    made.protocol_features &= ~mask(ProtocolFeature[name] for name in offers.lacks)
    return made


def press_a(keyboard: Keyboard) -> None:
    """Press and release the key A; without a front-end the guest gets it later."""
    try:
        keyboard.key(KEY_A, 1)
        keyboard.key(KEY_A, 0)
    except QapError as nobody:
        print(nobody, file=sys.stderr)


def main(kind: str, path: str, offered: str, image: str | None = None) -> None:
    """Serve until somebody interrupts it."""
    serves = service(kind, Path(image) if image else None)
    # Before there is another thread, which would get one of them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, *ENDS})
    with serving(Path(path), kind, features(offered), serves):
        while signal.sigwait({signal.SIGUSR1, *ENDS}) not in ENDS:
            if isinstance(serves, Keyboard):
                press_a(serves)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("expected TYPE SOCKET FEATURES [IMAGE], such as vhost-user-rng /tmp/rng.sock none")
    try:
        main(*sys.argv[1:])
    except QapError as wrong:
        sys.exit(str(wrong))
    except KeyboardInterrupt:
        sys.exit(Exit.OK)
