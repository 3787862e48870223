"""A network device of L1 whose frames go to a QEMU."""

from collections.abc import Iterator
from contextlib import contextmanager

from qap.lab.l1 import L1


@contextmanager
def tap(l1: L1, name: str) -> Iterator[None]:
    """A tap device of this name that is up, until the context ends; L1's kernel says nothing on it.

    Raises:
        GuestCommandError: there is one already.
    """
    l1.check(
        f"tunctl -t {name} && echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6 && "
        f"ip link set {name} up"
    )
    try:
        yield
    finally:
        l1.check(f"tunctl -d {name}")
