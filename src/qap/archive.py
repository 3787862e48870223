"""Everything that any verb takes from the Debian archive."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from qap import base, config
from qap.debian.bundle import Bundle
from qap.debian.bundles import bundles
from qap.errors import QapError, unknown_name
from qap.guest import kernel


def everything() -> list[Bundle]:
    """All bundles: QEMU's source, the guests' kernels, and those of configs/archive.toml."""
    return [base.bundle(), *_for_guests()]


def _for_guests() -> list[Bundle]:
    return [*(kernel.bundle(guest) for guest in config.guests().values()), *bundles()]


def chosen(names: Sequence[str]) -> list[Bundle]:
    """The bundles of these names, everything if none is given.

    Raises:
        UsageError: no such bundle.
    """
    known = {bundle.name: bundle for bundle in everything()}
    for name in names:
        if name not in known:
            raise unknown_name("bundle", name, known)
    return [known[name] for name in names or known]


def bring_for_guests() -> None:
    """Bring what guests and back-ends need before the work starts.

    What can't be had is said and no more: what needs it fails by itself, the rest can be done.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for bundle in _for_guests():
        if bundle.taken() is None:
            try:
                with console.status(f"fetching {bundle.name}"):
                    bundle.take()
            except QapError as exc:
                console.print(f"qap: {escape(str(exc))}")
