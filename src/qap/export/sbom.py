"""sbom.json: the Python packages that qap is locked to, in CycloneDX."""

import re
import tomllib
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from qap import __version__
from qap.export.queue import Queue
from qap.host.errors import UsageError
from qap.host.paths import Project

NAME = re.compile(r"[A-Za-z0-9._-]+")


def write(queue: Queue, path: Path) -> None:
    """Write what requirements.lock has, and which of it pyproject.toml asks for."""
    root = _component("qap", __version__, ComponentType.APPLICATION)
    found = {_normal(name): _component(name, at) for name, at in locked(queue.project).items()}
    asked = [found[name] for name in direct(queue.project) if name in found]
    bom = Bom(components=found.values())
    bom.metadata.component = root
    bom.metadata.timestamp = queue.date
    bom.register_dependency(root, asked)
    for component in found.values():
        bom.register_dependency(component)
    named = "\n".join(sorted(str(component.purl) for component in (root, *found.values())))
    bom.serial_number = uuid5(NAMESPACE_URL, named)
    path.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n")


def locked(project: Project) -> dict[str, str]:
    """The version of each package of requirements.lock.

    Raises:
        UsageError: the file is missing, or a line is not NAME==VERSION.
    """
    path = project.root / "requirements.lock"
    if not path.exists():
        raise UsageError("requirements.lock is missing")
    versions = {}
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text:
            name, found, version = text.partition("==")
            if not found:
                raise UsageError(f"requirements.lock: {text!r} is not NAME==VERSION")
            versions[name] = version
    return versions


def direct(project: Project) -> list[str]:
    """Names, as PyPI normalizes them, of the packages that pyproject.toml asks for."""
    text = (project.root / "pyproject.toml").read_text()
    wanted = tomllib.loads(text)["project"]["dependencies"]
    matches = [NAME.match(line) for line in wanted]
    return [_normal(match[0]) for match in matches if match]


def _normal(name: str) -> str:
    """A package's name as its specification compares it (packaging.python.org)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(name: str, version: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    purl = PackageURL("pypi", None, _normal(name), version)
    return Component(name=name, version=version, type=kind, purl=purl, bom_ref=str(purl))
