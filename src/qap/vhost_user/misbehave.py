"""What a back-end can do wrong, as rules that may change while it runs."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qap.vhost_user.protocol import REPLY, VERSION, FrontendRequest, Message

# A used entry: id and length.
UsedEntry = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Misbehaviour:
    """The base class of all rules; it changes nothing.

    Attributes:
        from_connection: number of the first connection that the rule applies to, from 1.
        until_connection: number of the last one; None for no limit.
    """

    from_connection: int = 1
    until_connection: int | None = None

    def holds(self, connection: int) -> bool:
        """Whether the rule applies to this connection."""
        last = connection if self.until_connection is None else self.until_connection
        return self.from_connection <= connection <= last

    def is_mute(self) -> bool:
        """Whether the connection is accepted but never read."""
        return False

    def hangs_up(self, request: int, number: int, same: int) -> bool:
        """Whether to close the connection instead of handling a message.

        Args:
            request: of the message.
            number: of the message in its connection, from 1.
            same: number of the message among those with the same request, from 1.
        """
        return False

    def features(self, offered: int, same: int) -> int:
        """The answer to the `same`-th GET_FEATURES of a connection."""
        return offered

    def reply(self, reply: Message) -> Message | None:
        """What is sent instead of a reply, or None for nothing."""
        return reply

    def used(self, queue: int, entry: UsedEntry, room: int) -> Sequence[UsedEntry]:
        """What is written to the used ring instead of an entry.

        Args:
            queue: index of the queue.
            entry: the correct entry.
            room: bytes that fit into the chain.
        """
        return (entry,)


@dataclass(frozen=True)
class Mute(Misbehaviour):
    """Accept the connection, and never read from it."""

    def is_mute(self) -> bool:
        return True


@dataclass(frozen=True)
class HangUp(Misbehaviour):
    """Close the connection at a message, which is recorded but not answered.

    Attributes:
        at: number of the message, from 1, among those that count.
        request: count only messages with this request; None to count all.
    """

    at: int = 1
    request: FrontendRequest | None = None

    def hangs_up(self, request: int, number: int, same: int) -> bool:
        if self.request is None:
            return number == self.at
        return request == self.request and same == self.at


@dataclass(frozen=True)
class FlipFeatures(Misbehaviour):
    """Answer a later GET_FEATURES with other features.

    Attributes:
        later: the other features.
        from_request: number of the first GET_FEATURES with this answer, from 1.
    """

    later: int
    from_request: int = 1

    def features(self, offered: int, same: int) -> int:
        return self.later if same >= self.from_request else offered


@dataclass(frozen=True)
class Silence(Misbehaviour):
    """Handle a request, but send no reply."""

    request: FrontendRequest

    def reply(self, reply: Message) -> Message | None:
        return None if reply.request == self.request else reply


@dataclass(frozen=True)
class Nack(Misbehaviour):
    """Report failure: reply with a u64 other than 0, also where a request has its own reply."""

    request: FrontendRequest
    value: int = 1

    def reply(self, reply: Message) -> Message | None:
        if reply.request != self.request:
            return reply
        return replace(reply, payload=struct.pack("=Q", self.value))


@dataclass(frozen=True)
class Garble(Misbehaviour):
    """Send a wrong reply. What is None stays as it should be.

    Attributes:
        request: the request whose reply is wrong.
        number: request number in the reply.
        flags: flags of the reply: 2 | REPLY has a bad version, VERSION alone is no reply.
        payload: payload of the reply.
        size: bytes to which the payload is cut or filled with zeroes.
    """

    request: FrontendRequest
    number: int | None = None
    flags: int | None = None
    payload: bytes | None = None
    size: int | None = None

    def reply(self, reply: Message) -> Message | None:
        if reply.request != self.request:
            return reply
        payload = reply.payload if self.payload is None else self.payload
        if self.size is not None:
            payload = payload[: self.size].ljust(self.size, b"\0")
        return replace(
            reply,
            request=reply.request if self.number is None else self.number,
            flags=VERSION | REPLY if self.flags is None else self.flags,
            payload=payload,
        )


@dataclass(frozen=True)
class WrongUsed(Misbehaviour):
    """Write wrong used entries.

    Attributes:
        queue: only on this queue; None for all.
        id: id of the entry, instead of the chain's.
        excess: if not 0, the entry's length is the room of the chain plus this.
        times: how often the entry is written.
    """

    queue: int | None = None
    id: int | None = None
    excess: int = 0
    times: int = 1

    def used(self, queue: int, entry: UsedEntry, room: int) -> Sequence[UsedEntry]:
        if self.queue not in (None, queue):
            return (entry,)
        used_id, length = entry
        wrong_id = used_id if self.id is None else self.id
        wrong = (wrong_id, room + self.excess if self.excess else length)
        return (wrong,) * self.times


class Rules:
    """The rules of a back-end on one connection, with the messages counted so far.

    Args:
        rules: returns the rules; called at each step, as they may change.
        connection: the number of this connection, from 1.
    """

    def __init__(self, rules: Callable[[], Sequence[Misbehaviour]], connection: int) -> None:
        self._rules = rules
        self._connection = connection
        self._messages = 0
        self._same: dict[int, int] = {}

    def _now(self) -> list[Misbehaviour]:
        return [rule for rule in self._rules() if rule.holds(self._connection)]

    @property
    def is_mute(self) -> bool:
        """Whether this connection is never read."""
        return any(rule.is_mute() for rule in self._now())

    def hangs_up(self, request: int) -> bool:
        """Count a message; returns whether the connection is to be closed."""
        self._messages += 1
        same = self._same[request] = self._same.get(request, 0) + 1
        return any(rule.hangs_up(request, self._messages, same) for rule in self._now())

    def features(self, offered: int) -> int:
        """The answer to the GET_FEATURES that was counted last."""
        for rule in self._now():
            offered = rule.features(offered, self._same[FrontendRequest.GET_FEATURES])
        return offered

    def reply(self, reply: Message) -> Message | None:
        """What to send instead of a reply, or None for nothing."""
        right: Message | None = reply
        for rule in self._now():
            right = rule.reply(right) if right else None
        return right

    def used(self, queue: int, entry: UsedEntry, room: int) -> Sequence[UsedEntry]:
        """What to write instead of a used entry; see `Misbehaviour.used`."""
        entries: Sequence[UsedEntry] = (entry,)
        for rule in self._now():
            entries = [wrong for right in entries for wrong in rule.used(queue, right, room)]
        return entries
