"""Properties that newer QEMUs have, and without which a vIOMMU there does less than it did."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from qap.machine.catalog import Property, viommus
from qap.machine.device import Device
from qap.machine.spec import Spec

ANSWER_S = 30


def completed(spec: Spec, binary: Path) -> Spec:
    """The machine with the properties that its vIOMMU needs in this emulator."""
    return replace(spec, devices=_completed(spec.devices, binary))


def is_newer(driver: str, binary: Path) -> bool:
    """Whether this emulator's vIOMMU has all the properties that are set in newer ones."""
    wanted = _newer().get(driver, {})
    return wanted.keys() <= _known(binary, driver) if wanted else True


def _newer() -> dict[object, dict[str, Property]]:
    return {row.device["driver"]: row.newer for row in viommus().values() if row.device}


def _completed(devices: Sequence[Device], binary: Path) -> list[Device]:
    newer = _newer()
    made: list[Device] = []
    for device in devices:
        wanted = newer.get(str(device["driver"]), {})
        known = _known(binary, str(device["driver"])) if wanted else frozenset()
        made.append({**device, **{key: wanted[key] for key in wanted if key in known - {*device}}})
    return made


@cache
def _known(binary: Path, driver: str) -> frozenset[str]:
    """The names of the properties that this emulator's device has."""
    argv = [str(binary), "-device", f"{driver},help"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    return frozenset(re.findall(r"^ +([\w-]+)=", said.stdout, re.MULTILINE))
