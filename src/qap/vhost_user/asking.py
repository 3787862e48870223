"""Ask a live back-end what it offers, as a front-end does when it connects."""

import socket
import struct
from pathlib import Path

from qap.host.errors import QapError
from qap.oracle.features import FeatureBit
from qap.vhost_user.protocol import VERSION, Channel, FrontendRequest, Message, ProtocolFeature

PATIENCE_S = 3.0


def ask(path: Path) -> tuple[int, int]:
    """The features and protocol features that a back-end offers (GET_FEATURES and so on).

    A back-end takes the end of this connection for the end of its VM, and may end itself.

    Raises:
        QapError: nobody listens there, or what does gives no answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(str(path))
            channel = Channel(sock, f"the back-end at {path}")
            try:
                return _asked(channel)
            finally:
                channel.close()
        except TimeoutError as exc:
            raise QapError(f"{path}: no answer to GET_FEATURES in {PATIENCE_S:.0f} s") from exc
        except OSError as exc:
            raise QapError(f"{path}: {exc.strerror}") from exc


def _asked(channel: Channel) -> tuple[int, int]:
    features = _value(channel, FrontendRequest.GET_FEATURES)
    if not features >> FeatureBit.VHOST_USER_PROTOCOL_FEATURES & 1:
        return features, 0
    return features, _value(channel, FrontendRequest.GET_PROTOCOL_FEATURES)


def _value(channel: Channel, request: FrontendRequest) -> int:
    channel.send(Message(request, b"", VERSION, []))
    with channel.receive() as reply:
        if reply.request != request or len(reply.payload) != 8:
            raise QapError(f"{channel.peer}: what answers {request.name} is no vhost-user back-end")
        value: int = struct.unpack("=Q", reply.payload)[0]
        return value


def lacking(protocol_features: int) -> tuple[str, ...]:
    """What a back-end with these protocol features lacks of what translation takes."""
    needed = (ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ)
    return tuple(one.name for one in needed if not protocol_features >> one & 1)
