"""The bundles that the verbs take from the Debian archive."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape

from qap.fork import base
from qap.host.debian import taken
from qap.host.debian.bundle import Bundle, NotBrought
from qap.host.debian.bundles import bundles
from qap.host.debian.failure import Unavailable
from qap.host.errors import QapError, unknown_name
from qap.host.paths import Project
from qap.lab import modules
from qap.machine import catalog
from qap.machine.guest import kernel


def everything() -> list[Bundle]:
    """All bundles: QEMU's source, guests' kernels and modules, those of configs/archive.toml."""
    project = Project.here()
    sources = [base.bundle(project.on(name)) for name in project.all_series()]
    kernels = map(kernel.bundle, catalog.guests().values())
    return [*sources, *kernels, *modules.bundles(), *bundles()]


def chosen(names: Sequence[str]) -> list[Bundle]:
    """The bundles of these names; all if none is given.

    Raises:
        UsageError: no such bundle.
    """
    known = {bundle.name: bundle for bundle in everything()}
    for name in names:
        if name not in known:
            raise unknown_name("bundle", name, known)
    return [known[name] for name in names or known]


def take_each(
    wanted: Sequence[Bundle], *, renew: bool = False
) -> Iterator[tuple[Bundle, QapError | OSError | None]]:
    """Fetch bundles; yields each with the error, or with None if it is there.

    After a failure that affects everything, such as a timeout of the mirror, the remaining
    bundles are only looked for in the cache.

    Args:
        renew: as for Bundle.take().
    """
    away: Unavailable | None = None
    for bundle in wanted:
        failed: QapError | OSError | None = None
        try:
            with Console(stderr=True).status(f"fetching {bundle.name}"):
                bundle.take(renew=renew, away=away)
        except (QapError, OSError) as exc:
            failed = exc
            if isinstance(exc, NotBrought) and exc.chief.everywhere:
                away = exc.chief
        yield bundle, failed


def bring_for_guests(*, compiled: bool = False, lab: bool = False) -> None:
    """Fetch what guests and back-ends need before the work starts.

    Failures are only printed: whatever needs the bundle fails later, the rest can be done.

    Args:
        compiled: also bring the kernels that have to be compiled, which few trials need.
        lab: also bring the modules that the kernel lab compiles.
    """
    guests = catalog.guests().values()
    ready = [guest for guest in guests if compiled or not guest.recipe]
    wanted = [*map(kernel.bundle, ready), *bundles(), *(modules.bundles() if lab else [])]
    missing = [bundle for bundle in wanted if bundle.taken() is None]
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for _, failed in take_each(missing):
        if failed is not None:
            console.print(f"qap: {escape(str(failed))}")
    forget_others()
    for guest in guests:
        try:
            if compiled and guest.recipe and kernel.bundle(guest).taken() is not None:
                kernel.kernel(guest)
            if lab and guest.headers and modules.bundle(guest).taken() is not None:
                modules.KernelModules(guest).bring()
        except QapError as exc:
            console.print(f"qap: {escape(str(exc))}\n{escape(exc.detail)}")


def forget_others() -> None:
    """Remove the records of bundles that are no longer in configs/."""
    known = {taken.home(bundle.name) for bundle in everything()}
    for record in taken.records():
        if record.parent not in known:
            record.unlink()
