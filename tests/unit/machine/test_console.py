"""The dialogue with a guest, whose part a thread plays."""

import base64
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from qap.host.errors import QapError
from qap.machine.guest.console import (
    BOOT_SILENCES,
    CommandOutput,
    Console,
    GuestCommandError,
    GuestLost,
    GuestPanic,
)

PANIC = b"Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"
TRACE = b"\r\n[    3.3] RIP: 0010:wrong+0x10\r\n[    3.3] ---[ end trace 0000000000000000 ]---\r\n"
# Long enough for any machine; only a failing test ever waits so long.
PATIENCE_S = 5.0
SILENCE = b""
Play = Callable[[socket.socket], object]


def answer(output: bytes, status: int, width: int = 1000) -> bytes:
    """What the guest's /init prints for a script, in lines of at most `width`."""
    text = base64.b64encode(output)
    parts = [text[start : start + width] for start in range(0, len(text), width)]
    lines = b"".join(b"qap-out %s\r\n" % part for part in parts)
    return lines + b"qap-end %d\r\n" % status


def scripts(sock: socket.socket) -> Iterator[str]:
    """The scripts that come down the line, one base64 line each."""
    with sock.makefile("rb") as lines:
        for line in lines:
            yield base64.b64decode(line, validate=False).decode()


class Guests:
    """Connects consoles to guests and ends both with the test."""

    def __init__(self, owned: ExitStack) -> None:
        self.owned = owned

    def play(self, play: Play) -> Console:
        """A console with `play` at the other end, in a thread; its socket closes at the end."""
        ours, theirs = (self.owned.enter_context(sock) for sock in socket.socketpair())
        theirs.settimeout(PATIENCE_S)

        def act() -> None:
            with theirs:
                play(theirs)

        thread = threading.Thread(target=act)
        thread.start()
        console = Console(ours)
        self.owned.callback(thread.join)
        self.owned.callback(ours.shutdown, socket.SHUT_RDWR)
        return console

    def answering(
        self, answers: Sequence[bytes], heard: list[str] | None = None, first: bytes = b""
    ) -> Console:
        """A guest that prints `first`, answers each script in turn, and then stays there."""

        def play(sock: socket.socket) -> None:
            sock.sendall(first)
            left = iter(answers)
            for script in scripts(sock):
                if heard is not None:
                    heard.append(script)
                sock.sendall(next(left, b""))

        return self.play(play)


@pytest.fixture
def guests() -> Iterator[Guests]:
    with ExitStack() as owned:
        yield Guests(owned)


class OneByteAtATime(socket.socket):
    """A line that delivers as slowly as a UART, whatever has been sent."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(min(size, 1), flags)


class Halting(socket.socket):
    """A line that delivers these pieces. SILENCE lasts as long as the reader waits."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__(socket.AF_UNIX)
        self.pieces = iter(pieces)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        piece = next(self.pieces)
        if not piece:
            raise TimeoutError
        return piece


def test_boot_gives_the_kernel_s_release(guests: Guests) -> None:
    boot = b"SeaBIOS\r\n[    0.0] Linux\r\nqap-ready 6.12.57+deb13-amd64\r\n"
    console = guests.answering([], first=boot)
    assert console.wait_ready(PATIENCE_S) == "6.12.57+deb13-amd64"
    assert "Linux" in console.tail()


def test_script_comes_back_as_output_and_status(guests: Guests) -> None:
    heard: list[str] = []
    console = guests.answering([answer(b"vda\nvdb\n", 0), answer(b"no such\n", 2)], heard)
    assert console.run("ls /sys/block\n") == CommandOutput("vda\nvdb\n", 0)
    assert console.run("ls /nowhere") == CommandOutput("no such\n", 2)
    assert heard == ["ls /sys/block\n", "ls /nowhere"]


def test_long_output_comes_in_lines(guests: Guests) -> None:
    data = bytes(range(32, 127)) * 50
    console = guests.answering([answer(data, 0)])
    assert console.run("cat file") == CommandOutput(data.decode(), 0)


def test_output_that_looks_like_the_dialogue_is_output(guests: Guests) -> None:
    data = b"qap-end 1\nKernel panic - not syncing: only quoted\n"
    console = guests.answering([answer(data, 0)])
    assert console.run("cat log") == CommandOutput(data.decode(), 0)


def test_check_returns_what_was_printed(guests: Guests) -> None:
    assert guests.answering([answer(b"  5\n", 0)]).check("wc -l") == "5"


def test_check_raises_on_a_status(guests: Guests) -> None:
    console = guests.answering([answer(b"mount: no device\n", 32)])
    with pytest.raises(GuestCommandError, match="“mount it” ended with status 32: mount: no dev"):
        console.check("mount it")


def test_panic_is_raised_with_its_words(guests: Guests) -> None:
    text = b"[    3.1] Oh\r\n[    3.2] " + PANIC + TRACE
    console = guests.answering([text])
    with pytest.raises(GuestPanic, match=r"Attempted to kill init! exitcode=0x00000100$") as raised:
        console.run("kill 1")
    assert "Oh" in raised.value.detail


def test_panic_is_raised_with_what_comes_after_it(guests: Guests) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(PANIC + b"\r\n")
        sock.sendall(TRACE)

    with pytest.raises(GuestPanic) as raised:
        guests.play(play).run("kill 1")
    assert "RIP: 0010:wrong+0x10" in raised.value.detail


def test_panic_while_booting_is_raised_too(guests: Guests) -> None:
    console = guests.answering([], first=PANIC + TRACE)
    with pytest.raises(GuestPanic, match="Attempted to kill init"):
        console.wait_ready(PATIENCE_S)


def test_panic_is_raised_with_all_its_words_on_a_slow_line() -> None:
    ours, theirs = socket.socketpair()
    with theirs, OneByteAtATime(fileno=ours.detach()) as slow:
        theirs.sendall(PANIC + TRACE)
        with pytest.raises(GuestPanic, match=r"Attempted to kill init! exitcode=0x00000100$"):
            Console(slow).wait_ready(PATIENCE_S)


def test_slow_line_is_understood() -> None:
    ours, theirs = socket.socketpair()
    with theirs, OneByteAtATime(fileno=ours.detach()) as slow:
        theirs.sendall(b"qap-ready 6.12\r\n" + answer(b"fine\n", 0))
        console = Console(slow)
        assert console.wait_ready(PATIENCE_S) == "6.12"
        assert console.check("true") == "fine"


def test_boot_may_be_slow_as_long_as_it_prints() -> None:
    with Halting([b"one\r\n", SILENCE, b"two\r\n", SILENCE, b"qap-ready 6.12\r\n"]) as sock:
        assert Console(sock).wait_ready(PATIENCE_S) == "6.12"


@pytest.mark.parametrize(
    "pieces", [[b"one\r\n", SILENCE, SILENCE], [b"again\r\n", SILENCE] * BOOT_SILENCES]
)
def test_boot_that_is_silent_or_endless_is_given_up(pieces: Sequence[bytes]) -> None:
    with (
        Halting([*pieces, b"qap-ready 6.12\r\n"]) as sock,
        pytest.raises(TimeoutError, match=r"s for the guest to boot; .*ends:\n(one|again)"),
    ):
        Console(sock).wait_ready(PATIENCE_S)


def test_console_that_closes_is_a_lost_guest(guests: Guests) -> None:
    console = guests.play(lambda sock: sock.sendall(b"half a li"))
    with pytest.raises(GuestLost, match="closed while qap waited for the guest to boot"):
        console.wait_ready(PATIENCE_S)
    assert console.tail() == "half a li"


def test_guest_that_ends_in_mid_script_is_lost(guests: Guests) -> None:
    console = guests.play(lambda sock: next(scripts(sock)))
    with pytest.raises(GuestLost, match="the guest to run “poweroff”"):
        console.run("poweroff")


def test_timeout_says_what_it_waited_for_and_what_was_seen(guests: Guests) -> None:
    console = guests.answering([b"[    9.9] still at it\r\n"])
    with pytest.raises(TimeoutError, match=r"^waited 0\.1 s for the guest to run “dd if=/dev/vda”"):
        console.run("dd if=/dev/vda\nsync", 0.1)
    with pytest.raises(TimeoutError, match=r"for the guest to boot; the console ends:\n.*still"):
        console.wait_ready(0.01)


def test_script_that_no_line_holds_is_refused(guests: Guests) -> None:
    heard: list[str] = []
    console = guests.answering([answer(b"", 0)], heard)
    with pytest.raises(QapError, match="longer than 3000 bytes"):
        console.run("x" * 3001)
    assert console.run("x" * 3000).status == 0
    assert heard == ["x" * 3000]


def test_tail_leaves_the_dialogue_out(guests: Guests) -> None:
    console = guests.answering([b"[    9.9] a word\r\n" + answer(b"x", 0)])
    console.run("x")
    assert console.tail() == "[    9.9] a word"
