"""Run what was explained, on stock QEMU and on the fork, and compare with the prediction."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from qap.explain.backend import Kind
from qap.explain.explanation import Explanation
from qap.explain.facts import Verdict
from qap.explain.interface import NEITHER, NO_MSIX
from qap.explain.prediction import Prediction
from qap.fork.build import Build
from qap.host.report import bad, good, table, unsure
from qap.machine.catalog import vhost_user_types
from qap.machine.machine import Machine, QemuDied
from qap.oracle.features import mask
from qap.oracle.fence import REFUSAL_PHRASE, Outcome
from qap.oracle.stock import LEGACY_PCI, NO_INTERFACE, NO_MEANS
from qap.scenario.same_topology import CHARDEV, Bench, bench, obstacle
from qap.vhost_user.backend import Backend
from qap.vhost_user.backends import backend
from qap.vhost_user.protocol import ProtocolFeature

NO_DEVICE = "is not a valid device model name"
OTHER = "QEMU refuses something else first"
# With what QEMU refuses a device for a reason that a prediction knows.
PHRASES = (
    *(REFUSAL_PHRASE, LEGACY_PCI, NO_INTERFACE, NO_MEANS, NEITHER, NO_MSIX),
    "Invalid value of property max_rev",
    "Only PCI/PCIe bridges can be plugged into",
    "Bus 'pxb-internal' does not support hotplugging",
    "it has a legacy interface only, and a driver of that is not served",
    "is not shared, so a vhost-user backend can't reach it",
)


@dataclass(frozen=True)
class Rerun:
    """A device plugged in one QEMU.

    Attributes:
        assumed: what was assumed of its back-end; "" if nothing.
        can: it can translate.
        expected: what was predicted of the plug.
        seen: what came of it; None if it was not run.
        said: what QEMU said of a device that it refuses, or why it was not run.
    """

    prediction: Prediction
    build: str
    assumed: str
    can: bool
    expected: Outcome
    seen: Outcome | None
    said: str

    @property
    def ok(self) -> bool:
        """Whether what was predicted came true, or could not be tried."""
        if self.seen is None or self.seen is Outcome.WORKS:
            return self.seen in (None, self.expected)
        return self.expected is Outcome.REFUSED and any(one in self.said for one in PHRASES)


def rerun(explanation: Explanation, base: Build, fork: Build) -> list[Rerun]:
    """Plug each virtio device of a command line alone in its topology, on both builds.

    Raises:
        QapError: QEMU crashed or hung.
    """
    return [
        done
        for prediction in explanation.predictions
        for verdict in _sure(prediction)
        for build in (base, fork)
        for done in [_plugged(explanation, prediction, verdict, build)]
    ]


def _sure(prediction: Prediction) -> Sequence[Verdict]:
    """The cases of a device; what is not known of its bus can't be tried."""
    return prediction.verdicts if prediction.translation.translated is not None else []


def _plugged(
    explanation: Explanation, prediction: Prediction, verdict: Verdict, build: Build
) -> Rerun:
    expected = verdict.on_stock.outcome if build.is_base else verdict.plugged.outcome
    why = obstacle(explanation, prediction)
    if build.is_base and prediction.missing:
        why = f"{prediction.missing} has no such device"
    if why:
        return Rerun(prediction, build.name, verdict.assumed, verdict.can, expected, None, why)
    seen, said = _plug(explanation, prediction, verdict, build)
    return Rerun(prediction, build.name, verdict.assumed, verdict.can, expected, seen, said)


def _plug(
    explanation: Explanation, prediction: Prediction, verdict: Verdict, build: Build
) -> tuple[Outcome | None, str]:
    with standing(prediction, verdict) as folder:
        made = bench(explanation, prediction, folder, is_base=build.is_base)
        return tried(build.path(f"qemu-system-{explanation.machine.target}"), made, prediction)


@contextmanager
def standing(prediction: Prediction, verdict: Verdict) -> Iterator[Path]:
    """A folder for a device, with its back-end if that is a program."""
    with ExitStack() as owned:
        folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
        if prediction.backend.kind is Kind.PROGRAM:
            owned.enter_context(_backend(prediction, verdict, folder / CHARDEV))
        yield folder


def tried(binary: Path, made: Bench, prediction: Prediction) -> tuple[Outcome | None, str]:
    """How the plug of a device ends, and what QEMU says; None if it did not come to that.

    Raises:
        QapError: QEMU crashed or hung.
    """
    said = ""
    try:
        with Machine(binary, made.spec) as machine:
            if made.hot:
                line = f"device_add {made.hot}"
                answer = machine.qmp.execute("human-monitor-command", **{"command-line": line})
                said = answer.strip()
    except QemuDied as died:
        if died.status != 1:
            raise
        said = died.said
    if NO_DEVICE in said:
        return None, "the build has no such device"
    if (other := _other(said, prediction)) and not made.hot:
        return None, f"{OTHER}: {other}"
    refused = "Error" in said if made.hot else bool(said)
    return Outcome.REFUSED if refused else Outcome.WORKS, _reason(said)


def _backend(prediction: Prediction, verdict: Verdict, path: Path) -> Backend:
    """A back-end in Python that offers what was told or assumed."""
    behind = prediction.backend
    known = vhost_user_types()
    name = prediction.family.name
    kind = name if name in known else next(iter(known))
    offers = behind.offers if behind.offers is not None else verdict.can
    made = backend(path, kind, access_platform=offers, version_1=behind.version_1)
    if behind.offers and behind.can is False:
        made.protocol_features &= ~mask([ProtocolFeature.REPLY_ACK])
    return made


def _other(said: str, prediction: Prediction) -> str:
    """What QEMU says of a device that is not the one that is tried; "" if nothing."""
    reason = _reason(said)
    option = f"-device {prediction.item.opts.get('driver')}"
    return reason if reason.startswith("-device ") and not reason.startswith(option) else ""


def _reason(said: str) -> str:
    """The line in which QEMU says why, without its name."""
    lines = [line for line in said.splitlines() if line.strip()]
    known = [line for line in lines if any(phrase in line for phrase in PHRASES)]
    return re.sub(r"^qemu-system-\w+: ", "", (known or lines[-1:] or [""])[0])


def problems(done: Sequence[Rerun]) -> Iterator[str]:
    """Where a prediction did not come true, a line each."""
    for one in done:
        if not one.ok:
            where = f"{one.prediction.name} on {one.build}"
            assumed = f" if {one.assumed}" if one.assumed else ""
            yield f"{where}{assumed}: predicted {one.expected}, came to {one.seen}: {one.said}"


def show(done: Sequence[Rerun]) -> None:
    """Print what came of each device beside what was predicted; able is its back-end."""
    rows = []
    for one in done:
        can = "" if not one.assumed else " (able)" if one.can else " (unable)"
        name = f"{one.prediction.name}{can}"
        seen = unsure("not run") if one.seen is None else (good if one.ok else bad)(one.seen)
        rows.append([name, one.build, one.expected, seen, escape(one.said)])
    table("what was predicted, and what came", ["device", "QEMU", "predicted", "came", ""], rows)


def as_json(one: Rerun) -> dict[str, object]:
    """A device plugged in one QEMU, as docs/json.md has it."""
    return {
        "id": one.prediction.item.id,
        "device": one.prediction.kind.driver,
        "build": one.build,
        "assumed": one.assumed,
        "expected": one.expected,
        "seen": one.seen,
        "said": one.said,
        "ok": one.ok,
    }
