"""What the handlers of requests share."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qap.vhost_user.protocol import Message, ProtocolError, ProtocolFeature, request_name

# The words of a payload, in the order of vhost-user.rst.
Words = tuple[int, ...]
# Does what a message says; returns the reply that the request has of its own, or None.
# File descriptors that it doesn't take out of the message are closed with it.
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
        """Whether a protocol feature is."""
        return bool(self.protocol_features >> bit & 1)


def u64(asked: Message, value: int) -> Message:
    """A reply of a u64."""
    return asked.reply(struct.pack("=Q", value))


def noted(_: Message, __: Words) -> None:
    """The handler of what needs no more than to be recorded."""


def only_fd(asked: Message) -> int:
    """The one file descriptor of a message, which stays the message's.

    Raises:
        ProtocolError: there is not exactly one.
    """
    if len(asked.fds) != 1:
        raise ProtocolError(f"{request_name(asked.request)} came with {len(asked.fds)} files")
    return asked.fds[0]
