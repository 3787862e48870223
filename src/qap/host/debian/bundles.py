"""The bundles that configs/archive.toml names."""

from functools import cache
from typing import Self

from pydantic import Field, model_validator

from qap.host import toml
from qap.host.debian.bundle import Bundle
from qap.host.debian.place import Place
from qap.host.errors import unknown_name
from qap.host.paths import data


class ArchiveSection(toml.Model):
    """A section of configs/archive.toml.

    Attributes:
        packages: Debian's names; with an architecture if it is not the bundle's.
        architectures: Debian's names of the architectures that it exists for.
        places: where to take the packages from, the best place first.
    """

    packages: tuple[str, ...] = Field(min_length=1)
    architectures: tuple[str, ...] = Field(min_length=1)
    places: tuple[Place, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        twice = [name for name in self.packages if self.packages.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is there twice")
        for architecture in self.architectures:
            if not any(place.serves(architecture) for place in self.places):
                raise ValueError(f"no place is good for {architecture}")
        for place in self.places:
            for name in place.mixed:
                if name not in [package.partition(":")[0] for package in self.packages]:
                    raise ValueError(f"{name} is no package of it")
            for name in place.only:
                if name not in self.architectures:
                    raise ValueError(f"{name} is no architecture of it")
        return self


@cache
def _entries() -> dict[str, ArchiveSection]:
    path = data() / "archive.toml"
    return {
        name: toml.checked(ArchiveSection, values, path, name)
        for name, values in toml.read(path).items()
    }


def bundle(name: str, architecture: str) -> Bundle:
    """A bundle by name.

    Args:
        architecture: Debian's name of it.
    Raises:
        UsageError: configs/archive.toml has no such bundle.
    """
    known = _entries()
    if name not in known or architecture not in known[name].architectures:
        names = [f"{key}:{part}" for key, entry in known.items() for part in entry.architectures]
        raise unknown_name("bundle", f"{name}:{architecture}", names)
    packages = tuple(
        package if ":" in package else f"{package}:{architecture}"
        for package in known[name].packages
    )
    places = tuple(place for place in known[name].places if place.serves(architecture))
    return Bundle(f"{name}:{architecture}", packages, places)


def bundles() -> list[Bundle]:
    """All bundles of configs/archive.toml."""
    return [
        bundle(name, architecture)
        for name, entry in _entries().items()
        for architecture in entry.architectures
    ]
