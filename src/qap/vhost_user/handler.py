"""What the handlers of requests share."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qap.vhost_user.protocol import Message, ProtocolError, ProtocolFeature, request_name

# The words of a payload, in the order of vhost-user.rst.
Words = tuple[int, ...]
# Handles a message; returns the reply, or None if the request has no reply of its own.
# File descriptors that it doesn't take out of the message are closed afterwards.
Handler = Callable[[Message, Words], Message | None]
Handlers = Mapping[int, Handler]


@dataclass
class Acked:
    """What the front-end has acknowledged.

    Attributes:
        features: of SET_FEATURES.
        protocol_features: of SET_PROTOCOL_FEATURES.
    """

    features: int = 0
    protocol_features: int = 0

    def has(self, bit: int) -> bool:
        """Whether a virtio feature bit is among them."""
        return bool(self.features >> bit & 1)

    def has_protocol(self, bit: ProtocolFeature) -> bool:
        """Whether a protocol feature bit is among them."""
        return bool(self.protocol_features >> bit & 1)


def u64(asked: Message, value: int) -> Message:
    """A reply of a u64."""
    return asked.reply(struct.pack("=Q", value))


def noted(_: Message, __: Words) -> None:
    """The handler of requests that are only recorded."""


def only_fd(asked: Message) -> int:
    """The only file descriptor of a message; the message still owns it.

    Raises:
        ProtocolError: the message has none, or more than one.
    """
    if len(asked.fds) != 1:
        raise ProtocolError(f"{request_name(asked.request)} came with {len(asked.fds)} files")
    return asked.fds[0]
