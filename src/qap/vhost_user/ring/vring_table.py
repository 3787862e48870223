"""The rings of a connection, and the requests that set them up."""

import os
import struct
from collections.abc import Iterator
from typing import Protocol

from qap.oracle.features import FeatureBit
from qap.vhost_user.handler import Acked, Handlers, Words, only_fd
from qap.vhost_user.memory.dirty_log import VRING_F_LOG
from qap.vhost_user.protocol import FrontendRequest, Message, ProtocolFeature
from qap.vhost_user.ring.vring import Vring

# SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR: bits of the payload.
VRING_INDEX = 0xFF
VRING_NO_FD = 1 << 8

_R = FrontendRequest


class Watch(Protocol):
    """Waits for kicks."""

    def watch(self, vring: Vring) -> None:
        """Wait for the ring's kick eventfd."""

    def unwatch(self, vring: Vring) -> None:
        """Stop waiting for the kick eventfd, if there is one: it will be closed."""


class VringTable:
    """Every ring that the front-end has named; owns their file descriptors.

    Args:
        acked: what is acknowledged on the connection.
        watch: is told of new and removed kick eventfds.
    """

    def __init__(self, acked: Acked, watch: Watch) -> None:
        self._acked = acked
        self._watch = watch
        self._vrings: dict[int, Vring] = {}
        self._enabled = False

    def __iter__(self) -> Iterator[Vring]:
        return iter(list(self._vrings.values()))

    def vring(self, index: int) -> Vring:
        """The ring of a queue; a new one in its initial state at first."""
        vring = self._vrings.get(index)
        if vring is None:
            vring = self._vrings[index] = Vring(index, enabled=self._enabled)
        return vring

    def unload(self) -> None:
        """Have every ring set up again, as something that it depends on has changed."""
        for vring in self._vrings.values():
            vring.unload()

    def features_acked(self) -> None:
        """Call this after SET_FEATURES: without protocol features every ring is enabled.

        With them it waits for SET_VRING_ENABLE, even if QEMU has named it before.
        """
        self._enabled = not self._acked.has(FeatureBit.VHOST_USER_PROTOCOL_FEATURES)
        if self._enabled:
            for vring in self._vrings.values():
                vring.enabled = True

    def reset(self) -> None:
        """Stop and disable every ring."""
        for vring in self._vrings.values():
            self._stop(vring)
            vring.enabled = False

    def forget(self) -> None:
        """Stop, close and drop every ring."""
        for vring in self._vrings.values():
            self._stop(vring)
            vring.close()
        self._vrings.clear()
        self._enabled = False

    def _stop(self, vring: Vring) -> None:
        self._watch.unwatch(vring)
        vring.stop()

    def handlers(self) -> Handlers:
        """The requests about rings."""
        return {
            _R.SET_VRING_NUM: self._set_vring_num,
            _R.SET_VRING_ADDR: self._set_vring_addr,
            _R.SET_VRING_BASE: self._set_vring_base,
            _R.GET_VRING_BASE: self._get_vring_base,
            _R.SET_VRING_KICK: self._set_vring_kick,
            _R.SET_VRING_CALL: self._set_vring_call,
            _R.SET_VRING_ERR: self._set_vring_err,
            _R.SET_VRING_ENABLE: self._set_vring_enable,
            _R.SET_VRING_ENDIAN: self._set_vring_endian,
            _R.VRING_KICK: self._vring_kick,
        }

    def _set_vring_num(self, _: Message, words: Words) -> None:
        index, size = words
        vring = self.vring(index)
        vring.unload()
        vring.size = size

    def _set_vring_addr(self, _: Message, words: Words) -> None:
        index, flags, desc, used, available, log = words
        vring = self.vring(index)
        vring.unload()
        vring.desc, vring.driver, vring.device = desc, available, used
        vring.log = log if flags & VRING_F_LOG else None

    def _set_vring_base(self, _: Message, words: Words) -> None:
        index, base = words
        vring = self.vring(index)
        vring.unload()
        vring.base = base

    def _get_vring_base(self, asked: Message, words: Words) -> Message:
        index, _ = words
        vring = self.vring(index)
        self._stop(vring)
        return asked.reply(struct.pack("=II", index, vring.base or 0))

    def _set_vring_kick(self, asked: Message, words: Words) -> None:
        vring, fd = self._vring_fd(asked, words)
        self._watch.unwatch(vring)
        vring.set_kick(fd)
        vring.polled = fd is None and not self._acked.has_protocol(
            ProtocolFeature.INBAND_NOTIFICATIONS
        )
        if fd is not None:
            # Another reader of the eventfd may come between our poll and our read.
            os.set_blocking(fd, False)
            self._watch.watch(vring)

    def _set_vring_call(self, asked: Message, words: Words) -> None:
        vring, fd = self._vring_fd(asked, words)
        vring.set_call(fd)

    def _set_vring_err(self, asked: Message, words: Words) -> None:
        vring, fd = self._vring_fd(asked, words)
        vring.set_err(fd)

    def _vring_fd(self, asked: Message, words: Words) -> tuple[Vring, int | None]:
        vring = self.vring(words[0] & VRING_INDEX)
        if words[0] & VRING_NO_FD:
            return vring, None
        fd = only_fd(asked)
        asked.take_fds()
        return vring, fd

    def _set_vring_enable(self, _: Message, words: Words) -> None:
        index, enable = words
        vring = self.vring(index)
        vring.enabled = bool(enable)
        vring.changes += 1

    def _set_vring_endian(self, _: Message, words: Words) -> None:
        index, big_endian = words
        vring = self.vring(index)
        vring.unload()
        vring.big_endian = bool(big_endian)

    def _vring_kick(self, _: Message, words: Words) -> None:
        self.vring(words[0]).start()
