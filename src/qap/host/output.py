"""Standard output whose reader may close it early, as `| head` does."""

import os
import sys
from typing import TextIO, cast


class Output:
    """A text stream that goes on into nothing once nobody reads it any more.

    Args:
        stream: what is written to; any other attribute is its own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()
            self._stream.flush()

    def _give_up(self) -> None:
        """Put /dev/null where the pipe was: what is still buffered goes there, too."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def tolerate_closed_output() -> None:
    """Let no verb fail because the reader of its output has left."""
    sys.stdout = cast(TextIO, Output(sys.stdout))
