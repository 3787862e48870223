"""`qap fetch`: fetch and check everything that comes from the Debian archive."""

import time
from collections.abc import Sequence

from rich.markup import escape

from qap.cli import archive
from qap.host.debian.bundle import Bundle
from qap.host.debian.sums import check
from qap.host.debian.taken import Taken
from qap.host.errors import QapError
from qap.host.report import Report, bad, good, table


def fetch(wanted: Sequence[Bundle], *, renew: bool) -> Report:
    """Fetch and check bundles, and print where each was taken from.

    Args:
        renew: try the better places again if another one was taken.
    """
    start = time.monotonic()
    rows, results = [], []
    for bundle, failed in archive.take_each(wanted, renew=renew):
        taken, error = bundle.taken(), str(failed or "")
        try:
            for file in taken.files if taken else []:
                check(file)
        except QapError as exc:
            error = str(exc)
        rows.append([bundle.name, origin(taken) if taken and not error else bad(error)])
        details = taken.model_dump(mode="json") if taken else None
        results.append({"bundle": bundle.name, "error": error, "taken": details})
    archive.forget_others()
    seconds = time.monotonic() - start
    table(f"qap fetch ({seconds:.0f} s)", ["what", "from"], rows)
    return Report("fetch", not any(row["error"] for row in results), seconds, results)


def origin(taken: Taken) -> str:
    """For the table: the place and version of a bundle, and why not a better place."""
    first = taken.packages[0]
    more = len(taken.packages) - 1
    what = f"{first.name.partition(':')[0]} {first.version}" + (f" and {more} more" if more else "")
    passed = "".join(f"\nnot {better.place}: {better.why}" for better in taken.passed_over)
    return good(f"{taken.place}: {what}") + (f"[yellow]{escape(passed)}[/]" if passed else "")
