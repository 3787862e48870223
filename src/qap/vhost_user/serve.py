"""A back-end in Python by hand: python -m qap.vhost_user.serve TYPE SOCKET FEATURES.

TYPE is a vhost-user device type of configs/devices.toml; FEATURES is what it offers, as
`qap repro --backend` takes it. It serves until it is interrupted.
"""

import os
import struct
import sys
import threading
from pathlib import Path

from qap.explain.backend import Told, features
from qap.host.errors import Exit, QapError
from qap.oracle.features import mask
from qap.vhost_user.backend import Backend
from qap.vhost_user.backends import backend
from qap.vhost_user.chain_service import ChainService, fill
from qap.vhost_user.crypto import CryptoHost
from qap.vhost_user.net import NetHost
from qap.vhost_user.protocol import ProtocolFeature
from qap.vhost_user.vsock import VsockHost

GUEST_CID = 42
PORT = 1234
VSOCK = "vhost-user-vsock"
RNG = "vhost-user-rng"
NET = "vhost-user-net"
CRYPTO = "vhost-user-crypto"


def randomness(queue: int, readable: bytes, room: int) -> bytes:
    """A `ChainService` of a random number generator (virtio 1.3, 5.4)."""
    return os.urandom(room)


def service(kind: str) -> ChainService:
    """What a guest's driver of this device type can use."""
    if kind == VSOCK:
        return VsockHost(PORT, os.urandom(1 << 20))
    if kind == NET:
        return NetHost()
    if kind == CRYPTO:
        return CryptoHost()
    return randomness if kind == RNG else fill


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
        config=struct.pack("<Q", GUEST_CID) if kind == VSOCK else None,
        service=serves,
    )
    made.protocol_features &= ~mask(ProtocolFeature[name] for name in offers.lacks)
    return made


def main(kind: str, path: str, offered: str) -> None:
    """Serve until somebody interrupts it."""
    with serving(Path(path), kind, features(offered), service(kind)):
        threading.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("expected TYPE SOCKET FEATURES, such as vhost-user-rng /tmp/rng.sock none")
    try:
        main(*sys.argv[1:])
    except QapError as wrong:
        sys.exit(str(wrong))
    except KeyboardInterrupt:
        sys.exit(Exit.OK)
