"""A row of `qap bench io`: one workload, what it cost on each QEMU, and what is asked of that."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from qap.measure.estimate import Estimate, median, ratio
from qap.measure.verdict import CostVerdict, Limit

Measure = Literal["instructions", "rate", "config instructions", "config rate"]
UNITS: dict[Measure, str] = {
    "instructions": "instructions a request",
    "rate": "requests a second",
    "config instructions": "instructions a read",
    "config rate": "reads a second",
}
FORK_TO_BASE: dict[Measure, Limit] = {
    "instructions": Limit(1.005, exact=True),
    "rate": Limit(0.95),
    "config instructions": Limit(1.02, exact=True),
    "config rate": Limit(0.98),
}
# What is not here is not compared.
ON_TO_OFF: dict[Measure, Limit] = {
    "instructions": Limit(1.003, exact=True),
    "rate": Limit(0.95),
}


@dataclass(frozen=True)
class Variant:
    """One of the machines that take turns at a workload.

    Attributes:
        build: fork or base.
        iommu_platform: the device's property.
    """

    build: Literal["fork", "base"]
    iommu_platform: bool

    def __str__(self) -> str:
        return f"{self.build} {'on' if self.iommu_platform else 'off'}"


VARIANTS = tuple(
    Variant(build, iommu_platform) for iommu_platform in (False, True) for build in ("base", "fork")
)


@dataclass(frozen=True)
class Comparison:
    """Two variants beside each other.

    Attributes:
        of, to: names of the variants; the ratio is of the one to the other.
        ratio: None where one of them did not run.
        verdict, reason: the result, and why it is no fault where it looks like one.
    """

    of: str
    to: str
    ratio: Estimate | None
    verdict: CostVerdict
    reason: str = ""


@dataclass
class WorkloadRow:
    """A workload.

    Attributes:
        name: what is done.
        measure: what is counted: instructions, of which less is better, or a rate; of requests,
            or of reads of device configuration.
        samples: by variant, a value each round; all have as many.
        refused: why a variant did not run.
        others: share of the processors' time that other processes used, from 0 to 1.
    """

    name: str
    measure: Measure
    samples: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    others: float = 0.0

    def add(self, variant: Variant, value: float) -> None:
        """Add a variant's value of the current round."""
        self.samples.setdefault(str(variant), []).append(value)

    def refuse(self, variant: Variant) -> None:
        """Note that a variant does not run, as its QEMU refuses the property."""
        self.refused[str(variant)] = f"the {variant.build} refuses iommu_platform=on"

    def typical(self, variant: str) -> Estimate | None:
        """A variant's median; None if it did not run."""
        values = self.samples.get(variant)
        return median(values) if values else None

    def comparisons(self) -> list[Comparison]:
        """Fork to base with the property off and on, and on to off on each."""
        return list(self._comparisons())

    def compared(self, of: str, to: str) -> Comparison:
        """One of the comparisons."""
        return next(
            comparison
            for comparison in self._comparisons()
            if (comparison.of, comparison.to) == (of, to)
        )

    @property
    def ok(self) -> bool:
        """Whether nothing is worse than is asked."""
        return all(comparison.verdict != CostVerdict.WORSE for comparison in self._comparisons())

    @property
    def is_doubtful(self) -> bool:
        """Whether what is worse than is asked may be so by chance: more rounds would tell."""
        return any(
            comparison.verdict == CostVerdict.WORSE
            and comparison.ratio is not None
            and self._limit(comparison).may_hold(comparison.ratio)
            for comparison in self._comparisons()
        )

    def _limit(self, comparison: Comparison) -> Limit:
        same_build = comparison.of.split()[0] == comparison.to.split()[0]
        return (ON_TO_OFF if same_build else FORK_TO_BASE)[self.measure]

    def _comparisons(self) -> Iterator[Comparison]:
        for state in ("off", "on"):
            yield self._fork_to_base(f"fork {state}", f"base {state}")
        yield self._on_to_off()
        yield Comparison(
            "base on", "base off", self._ratio("base on", "base off"), CostVerdict.NOTHING
        )

    def _ratio(self, of: str, to: str) -> Estimate | None:
        if of not in self.samples or to not in self.samples:
            return None
        return ratio(self.samples[of], self.samples[to])

    def _fork_to_base(self, of: str, to: str) -> Comparison:
        estimate = self._ratio(of, to)
        if estimate is None:
            reason = "; ".join(self.refused[name] for name in (of, to) if name in self.refused)
            return Comparison(of, to, None, CostVerdict.NOTHING, reason)
        return Comparison(
            of, to, estimate, *FORK_TO_BASE[self.measure].judge(estimate, self.others)
        )

    def _on_to_off(self) -> Comparison:
        of, to = "fork on", "fork off"
        estimate = self._ratio(of, to)
        if of in self.refused:
            return Comparison(of, to, estimate, CostVerdict.WORSE, self.refused[of])
        if estimate is None or self.measure not in ON_TO_OFF:
            return Comparison(of, to, estimate, CostVerdict.NOTHING)
        verdict, reason = ON_TO_OFF[self.measure].judge(estimate, self.others)
        stock = self._ratio("base on", "base off") if self.measure == "rate" else None
        if verdict == CostVerdict.WORSE and stock is not None and stock.meets(estimate):
            reason = f"the property costs as much on the base: {stock.value:.3f}"
            return Comparison(of, to, estimate, CostVerdict.EXPLAINED, reason)
        return Comparison(of, to, estimate, verdict, reason)

    def as_dict(self) -> dict[str, Any]:
        """For --json; docs/json.md has what is in it."""
        medians = {name: median(values).value for name, values in self.samples.items()}
        return {
            "name": self.name,
            "measure": self.measure,
            "unit": UNITS[self.measure],
            "samples": self.samples,
            "medians": medians,
            "refused": self.refused,
            "others": self.others,
            "comparisons": [
                {
                    "of": comparison.of,
                    "to": comparison.to,
                    "ratio": comparison.ratio and vars(comparison.ratio),
                    "verdict": comparison.verdict,
                    "reason": comparison.reason,
                }
                for comparison in self._comparisons()
            ],
            "ok": self.ok,
        }
