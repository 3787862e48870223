"""The tests in QEMU's style that the queue adds, C programs, with the QEMU under test."""

import os
import subprocess

import pytest

from qap.verify.kit.lab import Lab
from qap.verify.kit.qtest_program import EMULATOR, RUN_S, TIMEOUT_S, qtest_program

pytestmark = pytest.mark.timeout(TIMEOUT_S)

ACCESS_PLATFORM = "virtio-access-platform-test", "/virtio/access-platform"
VHOST_USER = "vhost-user-plug-test", "/vhost-user/plug"
BAD_DRIVER = "virtio-bad-driver-test", "/virtio/bad-driver"
MODERN_DRIVER = "virtio-modern-driver-test", "/virtio/modern-driver/generation"
PCIE_AER = "pcie-aer-test", "/pcie-aer/recorded"
MEMORY_MAP = "tcg-memory-map-test", "/tcg/memory-map"
CONFIDENTIAL = "confidential-sim-test", "/confidential-sim/dma"
Program = tuple[str, str]


def fails(lab: Lab, program: Program, test: str) -> str:
    """What a test of a program says if it fails on the QEMU under test."""
    name, folder = program
    binary = qtest_program(lab.build.profile, name)
    path = f"/x86_64{folder}/{test}"
    run = subprocess.run(
        [binary, "--tap", "-k", "-p", path],
        env={
            **os.environ,
            "QTEST_QEMU_BINARY": str(lab.build.path(EMULATOR)),
            "TMPDIR": str(lab.folder),
        },
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    passed = run.returncode == 0 and f"ok 1 {path}\n" in run.stdout
    return "" if passed else f"status {run.returncode}\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize(
    ("program", "test"),
    [
        (ACCESS_PLATFORM, "plug/translated"),
        (ACCESS_PLATFORM, "driver/accepts"),
        (VHOST_USER, "offer/requested"),
        (VHOST_USER, "offer/not-there"),
        (VHOST_USER, "offer/old-machine"),
        (MODERN_DRIVER, "running"),
        (MODERN_DRIVER, "old-machine"),
        (PCIE_AER, "correctable"),
    ],
)
def test_qtest_of_what_stays_as_it_was(lab: Lab, program: Program, test: str) -> None:
    """What is no fault of the base is the same on the fork."""
    assert not fails(lab, program, test)


@pytest.mark.parametrize("test", ["plug/untranslated", "driver/does-not-accept"])
def test_qtest_of_the_fence(lab: Lab, test: str) -> None:
    """A device that need not translate plugs; a driver without the bit is not served."""
    assert not fails(lab, ACCESS_PLATFORM, test)


@pytest.mark.parametrize(
    "test",
    ["offer/not-requested", "offer/plain", "refused/no-features", "refused/private-memory"],
)
def test_qtest_of_vhost(lab: Lab, test: str) -> None:
    """A device offers what was asked for; one whose back-end is unfit is refused, with a reason."""
    assert not fails(lab, VHOST_USER, test)


@pytest.mark.parametrize(
    "test", ["early-notification", "needs-reset", "available-index", "no-available-ring"]
)
def test_qtest_of_robust(lab: Lab, test: str) -> None:
    """A driver that breaks the rules is not served, and ends nothing."""
    assert not fails(lab, BAD_DRIVER, test)


@pytest.mark.parametrize("test", ["early", "negotiated"])
def test_qtest_of_modern(lab: Lab, test: str) -> None:
    """A driver that does not run yet sees that configuration has changed."""
    assert not fails(lab, MODERN_DRIVER, test)


@pytest.mark.parametrize("test", ["non-fatal", "fatal"])
def test_qtest_of_vfio(lab: Lab, test: str) -> None:
    """An error that is recorded leaves Link Capabilities alone."""
    assert not fails(lab, PCIE_AER, test)


def test_qtest_of_tcg(lab: Lab) -> None:
    """A CPU reads the same register, whatever the memory map."""
    assert not fails(lab, MEMORY_MAP, "register")


@pytest.mark.parametrize("test", ["shared", "private", "reported"])
def test_qtest_of_confidential(lab: Lab, test: str) -> None:
    """A device gets at what a simulated confidential guest shares, and at nothing else."""
    assert not fails(lab, CONFIDENTIAL, test)
