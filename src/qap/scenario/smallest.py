"""The smallest machine on which a plug ends as it does on the one that was explained."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qap.explain.backend import Kind
from qap.explain.explanation import Explanation
from qap.explain.facts import Verdict
from qap.explain.prediction import Prediction
from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.machine.catalog import machine_types
from qap.oracle.fence import Outcome
from qap.scenario.rerun import PHRASES, standing, tried
from qap.scenario.same_topology import CHARDEV, Bench, bench, obstacle

# Properties that take JSON's true and false.
BOOLEANS = frozenset(["iommu_platform", "disable-modern", "multifunction"])
# A -global of these machines, which stands after its option.
GLOBAL = re.compile(r"[\w-]+\.[\w-]+=")
# What tells the fork's refusals from one another.
REASONS = (
    "the bus is behind an IOMMU",
    "a driver of its legacy interface",
    "an IOMMU can't translate",
    "a backend that offers VIRTIO_F_VERSION_1",
)
Ending = tuple[Outcome | None, Sequence[str]]


@dataclass(frozen=True)
class Pair:
    """The same machine for stock QEMU and for the fork."""

    base: Bench
    fork: Bench


@dataclass(frozen=True)
class Drop:
    """One thing to leave out: a device, a property of one, a -global, a property of -machine, its
    version.

    Attributes:
        index: of the device.
        name: of the property, the text that is left out, or the machine type without a version.
    """

    what: Literal["device", "property", "global", "machine", "version", "hot"]
    index: int = 0
    name: str = ""


@dataclass(frozen=True)
class Smallest:
    """What is left.

    Attributes:
        pair: the machine; no single thing of it can be left out without another end.
        base, fork: how the plug ends.
        tries: how many machines were started.
    """

    prediction: Prediction
    verdict: Verdict
    pair: Pair
    base: Outcome
    fork: Outcome
    tries: int


def chosen(explanation: Explanation) -> tuple[Prediction, Verdict]:
    """The first device that is refused, and the case in which it is.

    Raises:
        UsageError: none is, or none that can be run.
    """
    for one in explanation.predictions:
        if obstacle(explanation, one) or one.missing:
            continue
        for verdict in one.verdicts:
            if Outcome.REFUSED in (verdict.on_stock.outcome, verdict.plugged.outcome):
                return one, verdict
    raise UsageError("no device that can be run is refused: there is nothing to make smaller")


def smallest(explanation: Explanation, base: Build, fork: Build) -> Smallest:
    """Leave out options, devices and properties while both builds do the same.

    Raises:
        UsageError: no device is refused, or QEMU refuses something else first.
        QapError: QEMU crashed or hung.
    """
    prediction, verdict = chosen(explanation)
    binaries = [build.path(f"qemu-system-{explanation.machine.target}") for build in (base, fork)]
    tries = 0

    def ends(pair: Pair) -> tuple[Ending, Ending]:
        nonlocal tries
        tries += 1
        first, second = (
            _ending(*tried(binary, made, prediction))
            for binary, made in zip(binaries, (pair.base, pair.fork), strict=True)
        )
        return first, second

    with standing(prediction, verdict) as folder:
        pair = Pair(
            bench(explanation, prediction, folder, is_base=True),
            bench(explanation, prediction, folder, is_base=False),
        )
        wanted = ends(pair)
        if wanted[0][0] is None or wanted[1][0] is None:
            raise UsageError(f"{prediction.name}: QEMU refuses something else first: try --run")
        plain = machine_types()[explanation.machine.kind].name
        at, since = 0, 0
        left = list(_drops(pair.fork, prediction, plain))
        # Until each was tried once more since the last that could be left out.
        while since < len(left):
            drop = left[at % len(left)]
            smaller = Pair(_without(pair.base, drop), _without(pair.fork, drop))
            if ends(smaller) == wanted:
                pair, since = smaller, 0
                left = list(_drops(pair.fork, prediction, plain))
            else:
                at, since = at + 1, since + 1
        here = Pair(_moved(pair.base, folder), _moved(pair.fork, folder))
    return Smallest(prediction, verdict, here, wanted[0][0], wanted[1][0], tries)


def _ending(seen: Outcome | None, said: str) -> Ending:
    return seen, [phrase for phrase in (*PHRASES, *REASONS) if phrase in said]


def _drops(made: Bench, prediction: Prediction, plain: str) -> Iterator[Drop]:
    """Everything that may be left out; whole devices first.

    Args:
        plain: the machine type without a version.
    """
    kept = {"driver", "chardev", *prediction.family.properties}
    if prediction.family.vhost_user and prediction.family.vhost_user.between:
        kept.add(prediction.family.vhost_user.between.property)
    for index, device in enumerate(made.spec.devices):
        if device["driver"] != prediction.item.opts.get("driver"):
            yield Drop("device", index)
    head, *rest = made.spec.machine.split(",")
    yield from (Drop("machine", name=f",{part}") for part in rest)
    if head != plain:
        yield Drop("version", name=plain)
    yield from (Drop("global", name=word) for word in made.spec.extra if GLOBAL.match(word))
    for index, device in enumerate(made.spec.devices):
        yield from (Drop("property", index, key) for key in device if key not in kept)
    for part in made.hot.split(",")[1:]:
        if part.partition("=")[0] not in kept:
            yield Drop("hot", name=f",{part}")


def _without(made: Bench, drop: Drop) -> Bench:
    spec = made.spec
    devices = list(spec.devices)
    match drop.what:
        case "device":
            del devices[drop.index]
        case "property":
            left = {key: value for key, value in devices[drop.index].items() if key != drop.name}
            devices[drop.index] = left
        case "global":
            at = list(spec.extra).index(drop.name) if drop.name in spec.extra else None
            words = spec.extra if at is None else [*spec.extra[: at - 1], *spec.extra[at + 1 :]]
            return replace(made, spec=replace(spec, extra=words))
        case "machine":
            return replace(made, spec=replace(spec, machine=spec.machine.replace(drop.name, "")))
        case "version":
            _, comma, rest = spec.machine.partition(",")
            return replace(made, spec=replace(spec, machine=drop.name + comma + rest))
        case "hot":
            return replace(made, hot=made.hot.replace(drop.name, ""))
    return replace(made, spec=replace(spec, devices=devices))


def _moved(made: Bench, folder: Path) -> Bench:
    """The machine with its socket in the working directory."""
    words = [word.replace(f"{folder}/", "") for word in made.spec.extra]
    return replace(made, spec=replace(made.spec, extra=words))


def lines(found: Smallest, target: str) -> Iterator[str]:
    """Shell lines that do the same by hand, and what QMP is told then."""
    made = found.pair.fork
    if found.prediction.backend.kind is Kind.PROGRAM:
        if found.prediction.backend.why.startswith("virtiofsd"):
            yield f"virtiofsd --socket-path={CHARDEV} --shared-dir=. &"
        else:
            offers = "offers" if found.verdict.can else "does not offer"
            yield f"# a back-end that {offers} ACCESS_PLATFORM listens on the socket {CHARDEV}"
    words = [f"qemu-system-{target}", *replace(made.spec, accel="tcg").argv()]
    yield shlex.join([*words, "-S", "-qmp", "stdio"])
    if made.hot:
        yield json.dumps({"execute": "qmp_capabilities"})
        driver, *rest = made.hot.split(",")
        pairs = {key: value for key, _, value in (part.partition("=") for part in rest)}
        typed = {key: value == "on" if key in BOOLEANS else value for key, value in pairs.items()}
        yield json.dumps({"execute": "device_add", "arguments": {"driver": driver, **typed}})


def as_json(found: Smallest, target: str) -> dict[str, object]:
    """What is left, as docs/json.md has it."""
    return {
        "id": found.prediction.item.id,
        "device": found.prediction.kind.driver,
        "base": found.base,
        "fork": found.fork,
        "tries": found.tries,
        "lines": list(lines(found, target)),
    }


def show(found: Smallest, target: str) -> None:
    """Print it."""
    print(
        f"\nThe smallest machine on which {found.prediction.name} is {found.base} on stock QEMU "
        f"and {found.fork} on the fork ({found.tries} tries):\n"
    )
    for line in lines(found, target):
        print(line)
