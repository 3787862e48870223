"""Waiting for a device that has no way to interrupt."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll_until(met: Callable[[], T | None], timeout: float, wanted: Callable[[], str]) -> T:
    """Ask again and again until there is an answer other than None; returns it.

    Args:
        met: a question that is a round trip to QEMU: its main loop works in between.
        timeout: in seconds.
        wanted: what the TimeoutError says was waited for.
    """
    deadline = time.monotonic() + timeout
    while (found := met()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {wanted()}")
    return found
