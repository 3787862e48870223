"""A place to take packages from: a suite, or a mix of suites that is known to work."""

from collections.abc import Sequence

from pydantic import Field

from qap.host.debian.suite import Suite
from qap.host.toml import Model


class Place(Model):
    """A suite of the archive.

    Attributes:
        suite: Debian's codename, such as "trixie".
        mixed: packages, without architecture, that come from another suite.
        only: the architectures that it is used for; all if empty.
        version: Debian's version that every package must have; "" for the suite's newest.
    """

    suite: str
    mixed: dict[str, str] = Field(default_factory=dict)
    only: tuple[str, ...] = ()
    version: str = ""

    def asked(self) -> dict[str, object]:
        """What a record of what was taken from here depends on."""
        return self.model_dump(exclude=None if self.version else {"version"})

    @property
    def title(self) -> str:
        """In words: "trixie with libc6 of forky"."""
        parts = [f"{package} of {suite}" for package, suite in self.mixed.items()]
        return " with ".join([self.suite, ", ".join(parts)] if parts else [self.suite])

    def serves(self, architecture: str) -> bool:
        return not self.only or architecture in self.only

    def suite_of(self, name: str) -> Suite:
        """The suite that a package (with architecture) comes from."""
        package, _, part = name.partition(":")
        return Suite(self.mixed.get(package, self.suite), part, self.version)

    def by_suite(self, names: Sequence[str]) -> dict[Suite, list[str]]:
        """These packages, grouped by the suite that each comes from."""
        grouped: dict[Suite, list[str]] = {}
        for name in names:
            grouped.setdefault(self.suite_of(name), []).append(name)
        return grouped
