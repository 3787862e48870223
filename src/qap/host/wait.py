"""Polling a device that can't interrupt."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll_until(met: Callable[[], T | None], timeout: float, wanted: Callable[[], str]) -> T:
    """Call `met` until it returns something other than None; returns that.

    Args:
        met: makes a round trip to QEMU, so that QEMU's main loop runs between two calls.
        timeout: in seconds.
        wanted: returns what was waited for, for the TimeoutError.
    """
    deadline = time.monotonic() + timeout
    while (answer := met()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {wanted()}")
    return answer
