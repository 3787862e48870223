"""One queue's ring as the front-end sets it up (vhost-user.rst, "Ring states")."""

import os
import time
from dataclasses import dataclass, field

from qap.vhost_user.protocol import ProtocolError
from qap.vhost_user.ring.ring import Ring


@dataclass
class Vring:
    """A ring's state; it owns its file descriptors.

    Attributes:
        index: of the queue.
        size: entries, from SET_VRING_NUM.
        desc, driver, device: from SET_VRING_ADDR, which calls the last two available and used.
        log: guest physical address at which writes to the device area are logged, from
            SET_VRING_ADDR, or None.
        base: next available entry, from SET_VRING_BASE; while `ring` is set, see `ring.base`.
        big_endian: from SET_VRING_ENDIAN, or None.
        kick, call, err: eventfds, or None.
        polled: there is no kick eventfd; the ring is polled.
        enabled: by SET_VRING_ENABLE, or because that was not negotiated.
        started: by a kick, until GET_VRING_BASE.
        due: there may be something to serve.
        waits: its next chain must wait until a chain of another ring is served.
        again: until when it waits at most, as time.monotonic() counts; None without a limit.
        ring: the ring while it is served, or None.
        noted: the inflight buffer's entry for the next chain, if it has one already.
        changes: counts the changes that make serving stop.
    """

    index: int
    size: int = 0
    desc: int = 0
    driver: int = 0
    device: int = 0
    log: int | None = None
    base: int | None = None
    big_endian: bool | None = None
    kick: int | None = None
    call: int | None = None
    err: int | None = None
    polled: bool = False
    enabled: bool = False
    started: bool = False
    due: bool = False
    waits: bool = False
    again: float | None = None
    ring: Ring | None = field(default=None, repr=False)
    noted: int | None = None
    changes: int = 0

    @property
    def is_due(self) -> bool:
        """Whether the ring should be served now."""
        over = self.again is not None and time.monotonic() >= self.again
        return (self.due or over) and self.started and self.enabled

    @property
    def due_in_s(self) -> float | None:
        """Seconds until it should be served though nothing happens; None if it should not."""
        if self.due:
            again: float | None = 0.0
        elif self.again is not None:
            again = max(0.0, self.again - time.monotonic())
        else:
            again = None
        return again if self.started and self.enabled else None

    def wait(self, again: float | None = None) -> None:
        """Leave the next chain, until a time at most."""
        self.waits, self.again = True, again

    def wake(self) -> None:
        """Serve the chain that waits, if one does."""
        if self.waits:
            self.waits, self.due = False, True

    def start(self) -> None:
        """A kick came."""
        self.started = True
        self.due = True

    def clear_kick(self) -> bool:
        """Read the kick eventfd; returns whether there was a kick.

        Raises:
            ProtocolError: it is no eventfd.
        """
        if self.kick is None:
            return False
        try:
            os.eventfd_read(self.kick)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise ProtocolError(f"the kick of queue {self.index} is no eventfd") from exc
        return True

    def unload(self) -> None:
        """Drop `ring`, as its setup changes; `base` keeps the position."""
        if self.ring:
            self.base = self.ring.base
            self.ring = None
        self.changes += 1

    def stop(self) -> None:
        """Serve no more until the next kick, and close the kick eventfd."""
        self.unload()
        self.started = self.due = self.waits = self.polled = False
        self.again = None
        self.set_kick(None)

    def set_kick(self, fd: int | None) -> None:
        self.kick = _replaced(self.kick, fd)

    def set_call(self, fd: int | None) -> None:
        self.call = _replaced(self.call, fd)

    def set_err(self, fd: int | None) -> None:
        self.err = _replaced(self.err, fd)

    def close(self) -> None:
        """Stop, and close every file descriptor; safe to repeat."""
        self.stop()
        self.set_call(None)
        self.set_err(None)


def _replaced(old: int | None, new: int | None) -> int | None:
    if old is not None:
        os.close(old)
    return new


def signal(fd: int | None) -> None:
    """Add 1 to an eventfd; None and a full counter are ignored."""
    if fd is None:
        return
    try:
        os.eventfd_write(fd, 1)
    except BlockingIOError:
        # The counter is at its maximum, so any waiter is woken anyway.
        return
