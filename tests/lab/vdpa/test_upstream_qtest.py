"""The test in QEMU's style that the queue adds for vDPA devices, in L1, which has one."""

import pytest

from qap.lab.l1 import L1
from qap.verify.kit.qtest_program import EMULATOR, RUN_S, TIMEOUT_S, qtest_program
from qap.verify.kit.vdpa_site import MadeOnce

pytestmark = pytest.mark.timeout(TIMEOUT_S)

NAME = "vhost-vdpa-test"


def failure(l1: L1, test: str, result: str = "", **environment: str) -> str:
    """What the program says of a test with the QEMU under test, if it does not pass.

    Args:
        result: how the line of its result goes on.
    """
    program = qtest_program(l1.build.profile, NAME)
    environment["QTEST_QEMU_BINARY"] = str(l1.build.path(EMULATOR))
    words = " ".join(f"{name}={value}" for name, value in environment.items())
    path = f"/x86_64/vhost-vdpa/{test}"
    said = l1.check(f"{words} {program} --tap -k -p {path} 2>&1; echo status $?", RUN_S)
    lines = said.splitlines()
    passed = f"ok 1 {path}{result}" in lines and lines[-1] == "status 0"
    return "" if passed else said


def on_a_device(l1: L1, made_once: MadeOnce, test: str) -> str:
    """The same, on a vDPA device."""
    return failure(l1, test, QTEST_VHOST_VDPA=made_once.take("sim").vdpa.node)


@pytest.mark.parametrize("test", ["driver/modern", "driver/legacy-old-machine"])
def test_qtest_of_what_stays_as_it_was(l1: L1, made_once: MadeOnce, test: str) -> None:
    assert on_a_device(l1, made_once, test) == ""


@pytest.mark.parametrize("test", ["driver/legacy", "driver/legacy-allowed", "plug/legacy-only"])
def test_qtest_of_vdpa(l1: L1, made_once: MadeOnce, test: str) -> None:
    """A legacy driver is served where the user says so, and else kept away."""
    assert on_a_device(l1, made_once, test) == ""


def test_qtest_without_a_device_skips(l1: L1) -> None:
    assert failure(l1, "no-device", " # SKIP QTEST_VHOST_VDPA names no device") == ""
