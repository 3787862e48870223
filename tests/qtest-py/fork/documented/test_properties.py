"""QEMU's own documentation mentions each property that the queue adds.

What is read is the source that the QEMU under test is built from.
"""

import re

import pytest

from qap.export.documented import documentation, mentions, undocumented
from qap.fork import series
from qap.fork.build import Build
from qap.verify.kit.lab import Lab

# What object_class_property_add() makes: qapi/qom.json lists it.
SIMULATION = re.compile(r"'struct': 'ConfidentialSimProperties',\s*'data': \{(.*?)\}", re.S)
PAGE = "docs/system/confidential-sim.rst"


def missing(lab: Lab, topic: str) -> list[str]:
    """The properties of a topic that are not documented in the tree under test."""
    patches = [patch for patch in series.patches(lab.build.project) if patch.topic == topic]
    return undocumented(patches, documentation(lab.build.tree))


def test_fence(lab: Lab) -> None:
    assert missing(lab, "fence") == []


def test_vhost(lab: Lab) -> None:
    assert missing(lab, "vhost") == []


def test_reconnect(lab: Lab) -> None:
    assert missing(lab, "reconnect") == []


def test_ring(lab: Lab) -> None:
    assert missing(lab, "ring") == []


def test_robust(lab: Lab) -> None:
    assert missing(lab, "robust") == []


def test_modern(lab: Lab) -> None:
    assert missing(lab, "modern") == []


def test_vdpa(lab: Lab) -> None:
    assert missing(lab, "vdpa") == []


def test_vfio(lab: Lab) -> None:
    assert missing(lab, "vfio") == []


def test_confidential(lab: Lab) -> None:
    found = SIMULATION.search((Build(lab.build.profile).tree / "qapi/qom.json").read_text())
    if not found:
        pytest.skip("x-confidential-sim is not ported to this base")
    (listed,) = found.groups()
    names = re.findall(r"'\*?([\w-]+)':", listed)
    page = lab.build.tree / PAGE
    assert page.exists()
    text = page.read_text()
    assert names and [name for name in names if not mentions(text, name)] == []
