"""What the front-end has set up on a connection, and the answer to each of its requests."""

import os
import struct

from qap.oracle.features import FeatureBit
from qap.vhost_user import layout
from qap.vhost_user.backend_channel import BackendChannel
from qap.vhost_user.chain_service import SessionService
from qap.vhost_user.device import Device
from qap.vhost_user.handler import Acked, Handlers, Words, noted, only_fd, u64
from qap.vhost_user.memory.driver_memory import DriverMemory
from qap.vhost_user.misbehave import Rules
from qap.vhost_user.protocol import FrontendRequest, Message, ProtocolError, close_fds, request_name
from qap.vhost_user.ring import inflight
from qap.vhost_user.ring.inflight import Inflight
from qap.vhost_user.ring.vring_table import VringTable

CONFIG_HEAD = 12
# A crypto session description ends with the session's id; the rest is the service's.
SESSION_ID = struct.Struct("=q")
CLOSED_ID = struct.Struct("=Q")

_R = FrontendRequest
_OPAQUE = frozenset({_R.CREATE_CRYPTO_SESSION, _R.CLOSE_CRYPTO_SESSION})


class Session:
    """The state of a connection; it owns every mapping and file descriptor in it.

    Args:
        device: the back-end's device.
        rules: what the back-end does wrong.
        acked, memory, vrings: in their initial state.

    Attributes:
        backend_channel: of SET_BACKEND_REQ_FD, or None.
        inflight: of SET_INFLIGHT_FD, or None.
    """

    def __init__(
        self,
        device: Device,
        rules: Rules,
        acked: Acked,
        memory: DriverMemory,
        vrings: VringTable,
    ) -> None:
        self.device = device
        self.acked = acked
        self.memory = memory
        self.vrings = vrings
        self.backend_channel: BackendChannel | None = None
        self.inflight: Inflight | None = None
        self._rules = rules
        self._display: list[int] = []
        self._crypto_sessions = 0
        self._handlers = {**self._own_handlers(), **memory.handlers(), **vrings.handlers()}

    def handle(self, message: Message) -> Message | None:
        """Handle a message; returns the reply, or None if there is none.

        Raises:
            ProtocolError: the message is malformed or not supported.
        """
        if message.is_reply:
            raise ProtocolError(f"the front-end sent {request_name(message.request)} as a reply")
        handler = self._handlers.get(message.request)
        if handler is None:
            raise ProtocolError(f"this back-end doesn't serve {request_name(message.request)}")
        words = () if message.request in _OPAQUE else layout.words(message.request, message.payload)
        reply = handler(message, words)
        if reply is None and message.needs_reply:
            return u64(message, 0)
        return reply

    def close(self) -> None:
        """Release everything; safe to repeat."""
        self._forget_driver()
        self._drop_backend_channel()
        self._set_display([])

    def _own_handlers(self) -> Handlers:
        device = self.device
        return {
            _R.GET_FEATURES: lambda asked, _: u64(asked, self._rules.features(device.features)),
            _R.SET_FEATURES: self._set_features,
            _R.GET_PROTOCOL_FEATURES: lambda asked, _: u64(asked, device.protocol_features),
            _R.SET_PROTOCOL_FEATURES: self._set_protocol_features,
            _R.GET_QUEUE_NUM: lambda asked, _: u64(asked, device.queues),
            _R.SET_OWNER: self._set_owner,
            _R.RESET_OWNER: noted,
            _R.RESET_DEVICE: self._reset_device,
            _R.GET_STATUS: lambda asked, _: u64(asked, device.status),
            _R.SET_STATUS: self._set_status,
            _R.GET_CONFIG: self._get_config,
            _R.SET_CONFIG: self._set_config,
            _R.SET_LOG_BASE: self._set_log_base,
            _R.SET_LOG_FD: noted,
            _R.GET_INFLIGHT_FD: self._get_inflight_fd,
            _R.SET_INFLIGHT_FD: self._set_inflight_fd,
            _R.SET_BACKEND_REQ_FD: self._set_backend_req_fd,
            _R.GPU_SET_SOCKET: lambda asked, _: self._set_display(asked.take_fds()),
            _R.CREATE_CRYPTO_SESSION: self._create_crypto_session,
            _R.CLOSE_CRYPTO_SESSION: self._close_crypto_session,
            _R.SEND_RARP: noted,
            _R.NET_SET_MTU: noted,
        }

    def _set_features(self, _: Message, words: Words) -> None:
        (self.acked.features,) = words
        self.vrings.unload()
        self.memory.iotlb.clear()
        self.vrings.features_acked()

    def _set_protocol_features(self, _: Message, words: Words) -> None:
        (self.acked.protocol_features,) = words

    def _set_owner(self, _: Message, __: Words) -> None:
        # "Session start": the state of an earlier device of the front-end is dropped.
        self._forget_driver()

    def _forget_driver(self) -> None:
        self.vrings.forget()
        self.memory.forget()
        if self.inflight:
            self.inflight.close()
            self.inflight = None

    def _set_status(self, _: Message, words: Words) -> None:
        (self.device.status,) = words

    def _reset_device(self, _: Message, __: Words) -> None:
        self.device.status = 0
        self.vrings.reset()

    def _get_config(self, asked: Message, words: Words) -> Message:
        offset, size, flags = words
        _check_region(asked, size)
        region = bytes(self.device.config[offset : offset + size]).ljust(size, b"\0")
        return asked.reply(struct.pack("=III", offset, size, flags) + region)

    def _set_config(self, asked: Message, words: Words) -> None:
        offset, size, _ = words
        _check_region(asked, size)
        config = self.device.config
        config.extend(bytes(max(0, offset + size - len(config))))
        config[offset : offset + size] = asked.payload[CONFIG_HEAD:]
        config[:] = self.device.selects(bytes(config))

    def _set_log_base(self, asked: Message, words: Words) -> Message | None:
        self.vrings.unload()
        return self.memory.set_log_base(asked, words)

    def _get_inflight_fd(self, asked: Message, words: Words) -> Message:
        queues, entries = words[2:]
        # Features may not be known yet, so take the larger size, that of a packed ring.
        size = queues * inflight.region_size(entries, packed=True)
        reply = asked.reply(struct.pack("=QQHHI", size, 0, queues, entries, 0))
        reply.fds.append(os.memfd_create("inflight"))
        try:
            os.ftruncate(reply.fds[0], size)
        except BaseException:
            reply.close()
            raise
        return reply

    def _set_inflight_fd(self, asked: Message, words: Words) -> None:
        given = Inflight(only_fd(asked), words, packed=self.acked.has(FeatureBit.RING_PACKED))
        for vring in self.vrings:
            vring.unload()
            vring.noted = None
        if self.inflight:
            self.inflight.close()
        self.inflight = given

    def _set_backend_req_fd(self, asked: Message, _: Words) -> None:
        only_fd(asked)
        self._drop_backend_channel()
        (fd,) = asked.take_fds()
        self.backend_channel = BackendChannel(fd, self.device.patience)

    def _drop_backend_channel(self) -> None:
        channel, self.backend_channel = self.backend_channel, None
        if channel:
            channel.close()

    def _set_display(self, fds: list[int]) -> None:
        # QEMU expects no message on it, but reports an error when it is closed here.
        close_fds(self._display)
        self._display = fds

    def _create_crypto_session(self, asked: Message, _: Words) -> Message:
        service = self.device.service
        if isinstance(service, SessionService):
            number = service.create(asked.payload)
        else:
            number = self._crypto_sessions = self._crypto_sessions + 1
        return asked.reply(asked.payload[: -SESSION_ID.size] + SESSION_ID.pack(number))

    def _close_crypto_session(self, asked: Message, _: Words) -> None:
        service = self.device.service
        if isinstance(service, SessionService) and len(asked.payload) == CLOSED_ID.size:
            service.close(*CLOSED_ID.unpack(asked.payload))


def _check_region(asked: Message, size: int) -> None:
    region = len(asked.payload) - CONFIG_HEAD
    if region != size:
        raise ProtocolError(
            f"{request_name(asked.request)} announces {size} bytes and carries {region}"
        )
