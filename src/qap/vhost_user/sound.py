"""A loudspeaker for vhost-user-snd: one stream of output, played in time (virtio 1.3, 5.14)."""

import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto

from qap.vhost_user.chain_service import LATER, YIELD, Answer, At

# 5.14.2.
CONTROLQ, EVENTQ, TXQ, RXQ = range(4)
# 5.14.4: how many jacks, streams and channel maps there are.
CONFIG = struct.Struct("<III")
STREAM = 0
# 5.14.6: a code begins each request and each answer.
CODE = struct.Struct("<I")
QUERY = struct.Struct("<IIII")
# 5.14.6.6: hda_fn_nid, features, formats, rates, direction, channels_min and channels_max.
PCM_INFO = struct.Struct("<IIQQBBB5x")
OUTPUT = 0
# 5.14.6.6 and others: code and stream_id; then buffer_bytes, period_bytes, features, channels,
# format and rate.
PCM = struct.Struct("<II")
PARAMS = struct.Struct("<IIIBBBx")
# 5.14.6.8: stream_id, then samples; status and latency_bytes.
XFER = struct.Struct("<I")
STATUS = struct.Struct("<II")
# 5.14.6.6: VIRTIO_SND_PCM_FMT_* with their bytes, and VIRTIO_SND_PCM_RATE_* with their frequency.
FORMATS: Mapping[int, int] = {4: 1, 5: 2}  # U8 and S16
RATES: Mapping[int, int] = {1: 8000, 6: 44100, 7: 48000}
CHANNELS = range(1, 3)


class Code(IntEnum):
    """VIRTIO_SND_R_* and VIRTIO_SND_S_* (5.14.6)."""

    PCM_INFO = 0x0100
    PCM_SET_PARAMS = 0x0101
    PCM_PREPARE = 0x0102
    PCM_RELEASE = 0x0103
    PCM_START = 0x0104
    PCM_STOP = 0x0105
    OK = 0x8000
    BAD_MSG = 0x8001
    NOT_SUPP = 0x8002
    IO_ERR = 0x8003


class State(Enum):
    """Of the stream (5.14.6.6)."""

    INITIAL = auto()
    SET = auto()
    PREPARED = auto()
    STARTED = auto()
    STOPPED = auto()
    RELEASED = auto()


# The states in which each command is allowed, and what comes of it (5.14.6.6).
COMMANDS: Mapping[Code, tuple[tuple[State, ...], State]] = {
    Code.PCM_SET_PARAMS: ((State.INITIAL, State.SET, State.PREPARED, State.RELEASED), State.SET),
    Code.PCM_PREPARE: ((State.SET, State.PREPARED, State.RELEASED), State.PREPARED),
    Code.PCM_START: ((State.PREPARED, State.STOPPED), State.STARTED),
    Code.PCM_STOP: ((State.STARTED,), State.STOPPED),
    Code.PCM_RELEASE: ((State.PREPARED, State.STOPPED), State.RELEASED),
}


@dataclass
class Loudspeaker:
    """A `ChainService` that plays what a driver sends, and keeps it.

    A buffer is used once it has been played. Those that are left when the driver releases the
    stream are used at once, before the release is answered (5.14.6.6).

    Args:
        clock: tells the time as time.monotonic() does.

    Attributes:
        heard: what was played since the parameters were set.
        state: of the stream.
        rate: bytes that it plays in a second.
    """

    clock: Callable[[], float] = time.monotonic
    heard: bytearray = field(default_factory=bytearray)
    state: State = State.INITIAL
    rate: int = 0
    # When the buffer that it plays is over, None if there is none; and when the last one was.
    _over: float | None = None
    _last: float = 0.0
    _flushed: bool = True

    def __call__(self, queue: int, readable: bytes, room: int) -> Answer:
        """See `ChainService`."""
        if queue == CONTROLQ:
            return self._control(readable, room)
        if queue == TXQ:
            return self._play(readable, room)
        return LATER

    def _play(self, message: bytes, room: int) -> Answer:
        """A buffer with samples (5.14.6.8)."""
        samples = message[XFER.size :]
        if message[: XFER.size] != XFER.pack(STREAM):
            return STATUS.pack(Code.BAD_MSG, 0)[:room]
        if self.state in (State.INITIAL, State.SET, State.RELEASED):
            return STATUS.pack(Code.IO_ERR, 0)[:room]
        if self.state != State.STARTED:
            return LATER
        now = self.clock()
        if self._over is None:
            self._over = max(self._last, now) + len(samples) / self.rate
        if now < self._over:
            return At(self._over)
        self._last, self._over = self._over, None
        self.heard += samples
        return STATUS.pack(Code.OK, 0)[:room]

    def _control(self, request: bytes, room: int) -> Answer:
        (code,) = CODE.unpack_from(request.ljust(CODE.size, b"\0"))
        if code == Code.PCM_INFO:
            return _information(request, room)
        if code not in COMMANDS:
            return CODE.pack(Code.NOT_SUPP)[:room]
        if len(request) < PCM.size or PCM.unpack_from(request)[1] != STREAM:
            return CODE.pack(Code.BAD_MSG)[:room]
        if code == Code.PCM_RELEASE and self.state == State.RELEASED and not self._flushed:
            self._flushed = True
            return CODE.pack(Code.OK)[:room]
        answer = self._command(Code(code), request[PCM.size :])
        if answer == Code.OK and code == Code.PCM_RELEASE:
            self._flushed = False
            return YIELD
        return CODE.pack(answer)[:room]

    def _command(self, code: Code, params: bytes) -> Code:
        """A command to the stream; returns the answer to it."""
        allowed, becomes = COMMANDS[code]
        if self.state not in allowed:
            return Code.BAD_MSG
        if code == Code.PCM_SET_PARAMS:
            answer = _checked(params)
            if answer != Code.OK:
                return answer
            self.rate = _bytes_a_second(params)
            self.heard.clear()
        self.state, self._over = becomes, None
        return Code.OK


def _information(request: bytes, room: int) -> bytes:
    """Of the stream (5.14.6.6)."""
    if len(request) < QUERY.size:
        return CODE.pack(Code.BAD_MSG)[:room]
    _, first, count, size = QUERY.unpack_from(request)
    if (first, count) != (STREAM, 1) or size < PCM_INFO.size:
        return CODE.pack(Code.BAD_MSG)[:room]
    formats, rates = (sum(1 << bit for bit in bits) for bits in (FORMATS, RATES))
    info = PCM_INFO.pack(0, 0, formats, rates, OUTPUT, CHANNELS[0], CHANNELS[-1])
    return (CODE.pack(Code.OK) + info.ljust(min(size, room), b"\0"))[:room]


def _checked(params: bytes) -> Code:
    """The answer to parameters of the stream (5.14.6.6)."""
    if len(params) < PARAMS.size:
        return Code.BAD_MSG
    buffer, period, features, channels, form, rate = PARAMS.unpack_from(params)
    if not period or buffer % period:
        return Code.BAD_MSG
    known = channels in CHANNELS and form in FORMATS and rate in RATES
    return Code.OK if known and not features else Code.NOT_SUPP


def _bytes_a_second(params: bytes) -> int:
    """What a stream of these parameters plays."""
    channels, form, rate = PARAMS.unpack_from(params)[3:]
    return int(channels * FORMATS[form] * RATES[rate])
