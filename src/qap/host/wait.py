"""Polling a device that can't interrupt."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# A QEMU that the host did not run for long has some more turns after that.
FEWEST = 64


def poll_until(met: Callable[[], T | None], timeout: float, wanted: Callable[[], str]) -> T:
    """Call `met` until it returns something other than None; returns that.

    Args:
        met: makes a round trip to QEMU, so that QEMU's main loop runs between two calls.
        timeout: in seconds; however long they take, there are at least FEWEST calls.
        wanted: returns what was waited for, for the TimeoutError.
    """
    deadline = time.monotonic() + timeout
    calls = 1
    while (answer := met()) is None:
        if calls >= FEWEST and time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {wanted()}")
        calls += 1
    return answer
