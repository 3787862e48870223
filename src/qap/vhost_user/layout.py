"""The words in each vhost-user payload, as a table from request to layout."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from qap.vhost_user.protocol import ByteOrder, FrontendRequest, ProtocolError, request_name


@dataclass(frozen=True)
class PayloadLayout:
    """The words of a payload as format characters of the struct module, without padding.

    Attributes:
        head: the words that are always there.
        item: words that follow `head`, repeated as often as fits the payload's size.
        raw: whether bytes of no particular order may follow instead: an array of
            bytes, or padding at the end of a C structure.
    """

    head: str = ""
    item: str = ""
    raw: bool = False

    def words(self, payload: bytes, order: ByteOrder = "=") -> tuple[int, ...]:
        """Values of the words of a payload; raw bytes are left out.

        Raises:
            ValueError: the payload's size doesn't fit this layout.
        """
        return self._words_in(payload, order).unpack_from(payload)

    def swap(self, payload: bytes) -> bytes:
        """The payload with every word in the other byte order.

        Raises:
            ValueError: the payload's size doesn't fit this layout.
        """
        words = self._words_in(payload, ">")
        return words.pack(*self.words(payload, "<")) + payload[words.size :]

    def _words_in(self, payload: bytes, order: ByteOrder) -> struct.Struct:
        words = _fitting(self, order, len(payload))
        if words is None:
            raise ValueError(f"{len(payload)} bytes, which don't hold {self}")
        return words

    def __str__(self) -> str:
        more = f" and any number of {self.item}" if self.item else " and bytes" if self.raw else ""
        return (self.head or "nothing") + more


@lru_cache(maxsize=256)
def _fitting(layout: PayloadLayout, order: ByteOrder, size: int) -> struct.Struct | None:
    """The words of a payload of `size` bytes, or None if that size doesn't fit."""
    rest = size - struct.calcsize(order + layout.head)
    items, rest = divmod(rest, struct.calcsize(order + layout.item)) if layout.item else (0, rest)
    if items < 0 or rest < 0 or (rest and not layout.raw):
        return None
    return struct.Struct(order + layout.head + items * layout.item)


NOTHING = PayloadLayout()
U64 = PayloadLayout("Q")
VRING_STATE = PayloadLayout("II")
VRING_ADDR = PayloadLayout("IIQQQQ")
MEMORY_REGION = "QQQQ"
MEMORY_REGIONS = PayloadLayout("II", item=MEMORY_REGION)
SINGLE_REGION = PayloadLayout("Q" + MEMORY_REGION)
# The table of requests says u64; QEMU sends the "Log description", which has two.
LOG = PayloadLayout("Q", item="Q")
IOTLB = PayloadLayout("QQQBB", raw=True)
CONFIG = PayloadLayout("III", raw=True)
INFLIGHT = PayloadLayout("QQHH", raw=True)
DEVICE_STATE = PayloadLayout("II")
# vhost-user.rst calls it a u64; the first six bytes are a MAC address.
MAC = PayloadLayout(raw=True)

_R = FrontendRequest

REQUESTS: Mapping[int, PayloadLayout] = {
    _R.GET_FEATURES: NOTHING,
    _R.SET_FEATURES: U64,
    _R.SET_OWNER: NOTHING,
    _R.RESET_OWNER: NOTHING,
    _R.SET_MEM_TABLE: MEMORY_REGIONS,
    _R.SET_LOG_BASE: LOG,
    _R.SET_LOG_FD: NOTHING,
    _R.SET_VRING_NUM: VRING_STATE,
    _R.SET_VRING_ADDR: VRING_ADDR,
    _R.SET_VRING_BASE: VRING_STATE,
    _R.GET_VRING_BASE: VRING_STATE,
    _R.SET_VRING_KICK: U64,
    _R.SET_VRING_CALL: U64,
    _R.SET_VRING_ERR: U64,
    _R.GET_PROTOCOL_FEATURES: NOTHING,
    _R.SET_PROTOCOL_FEATURES: U64,
    _R.GET_QUEUE_NUM: NOTHING,
    _R.SET_VRING_ENABLE: VRING_STATE,
    _R.SEND_RARP: MAC,
    _R.NET_SET_MTU: U64,
    _R.SET_BACKEND_REQ_FD: NOTHING,
    _R.IOTLB_MSG: IOTLB,
    _R.SET_VRING_ENDIAN: VRING_STATE,
    _R.GET_CONFIG: CONFIG,
    _R.SET_CONFIG: CONFIG,
    _R.GET_INFLIGHT_FD: INFLIGHT,
    _R.SET_INFLIGHT_FD: INFLIGHT,
    _R.GPU_SET_SOCKET: NOTHING,
    _R.RESET_DEVICE: NOTHING,
    _R.VRING_KICK: VRING_STATE,
    _R.GET_MAX_MEM_SLOTS: NOTHING,
    _R.ADD_MEM_REG: SINGLE_REGION,
    _R.REM_MEM_REG: SINGLE_REGION,
    _R.SET_STATUS: U64,
    _R.GET_STATUS: NOTHING,
    _R.SET_DEVICE_STATE_FD: DEVICE_STATE,
    _R.CHECK_DEVICE_STATE: NOTHING,
}

REPLIES: Mapping[int, PayloadLayout] = {
    _R.GET_VRING_BASE: VRING_STATE,
    _R.GET_CONFIG: CONFIG,
    _R.GET_INFLIGHT_FD: INFLIGHT,
}


def words(request: int, payload: bytes) -> tuple[int, ...]:
    """Values of the words of a request's payload, in the host's byte order.

    Raises:
        ProtocolError: the request isn't in the table, or the payload doesn't fit it.
    """
    try:
        return _layout(request, reply=False).words(payload)
    except ValueError as exc:
        raise ProtocolError(f"{request_name(request)} has a payload of {exc}") from exc


def swap(request: int, payload: bytes, *, reply: bool) -> bytes:
    """A payload with its words in the other byte order.

    Any reply may be empty: that is how GET_CONFIG fails and SET_LOG_BASE succeeds.

    Raises:
        ProtocolError: the request isn't in the table, or the payload doesn't fit it.
    """
    layout = _layout(request, reply=reply)
    if reply and not payload:
        return payload
    try:
        return layout.swap(payload)
    except ValueError as exc:
        what = "the reply to " if reply else ""
        raise ProtocolError(f"{what}{request_name(request)} has a payload of {exc}") from exc


def _layout(request: int, *, reply: bool) -> PayloadLayout:
    """The layout of a request's payload, or of the reply to it.

    A reply that REPLIES doesn't list is a u64: a value that was asked for, or the
    acknowledgement of REPLY_ACK.
    """
    if request not in REQUESTS:
        raise ProtocolError(f"vhost-user {request_name(request)}: qap doesn't know its payload")
    return REPLIES.get(request, U64) if reply else REQUESTS[request]
