"""The test in QEMU's style that the queue adds for vDPA devices, in L1, which has one."""

import pytest

from qap.lab.l1 import L1
from qap.verify.kit.qtest_program import EMULATOR, RUN_S, TIMEOUT_S, qtest_program
from qap.verify.kit.vdpa_site import MadeOnce

pytestmark = pytest.mark.timeout(TIMEOUT_S)

NAME = "vhost-vdpa-test"


def output(l1: L1, test: str, **environment: str) -> str:
    """What the program says of a test with the QEMU under test, whether it passes or fails."""
    program = qtest_program(l1.build.profile, NAME)
    environment["QTEST_QEMU_BINARY"] = str(l1.build.path(EMULATOR))
    words = " ".join(f"{name}={value}" for name, value in environment.items())
    return l1.check(f"{words} {program} --tap -k -p /x86_64/vhost-vdpa/{test} 2>&1 || true", RUN_S)


def failure(l1: L1, node: str, test: str) -> str:
    """A test of the program on a vDPA device; returns what it says if it did not pass."""
    said = output(l1, test, QTEST_VHOST_VDPA=node)
    return "" if f"\nok 1 /x86_64/vhost-vdpa/{test}" in said else said


@pytest.mark.parametrize("test", ["driver/modern", "driver/legacy-old-machine"])
def test_qtest_of_what_stays_as_it_was(l1: L1, made_once: MadeOnce, test: str) -> None:
    assert not failure(l1, made_once.take("sim").vdpa.node, test)


@pytest.mark.parametrize("test", ["driver/legacy", "driver/legacy-allowed", "plug/legacy-only"])
def test_qtest_of_vdpa(l1: L1, made_once: MadeOnce, test: str) -> None:
    """A legacy driver is served where the user says so, and else kept away."""
    assert not failure(l1, made_once.take("sim").vdpa.node, test)


def test_qtest_without_a_device_skips(l1: L1) -> None:
    assert "# SKIP QTEST_VHOST_VDPA names no device" in output(l1, "no-device")
