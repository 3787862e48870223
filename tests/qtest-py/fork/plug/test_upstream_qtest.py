"""The tests in QEMU's style that the queue adds, C programs, with the QEMU under test."""

import os
import subprocess
from dataclasses import dataclass

import pytest

from qap.verify.kit.lab import Lab
from qap.verify.kit.qtest_program import RUN_S, TIMEOUT_S, qtest_program
from qap.verify.qtest_programs import emulator

pytestmark = pytest.mark.timeout(TIMEOUT_S)


@dataclass(frozen=True)
class Program:
    """A test program, and the folder of its tests.

    Attributes:
        target: of the emulator that it drives.
    """

    name: str
    folder: str
    target: str = "x86_64"


SOUND = Program("virtio-snd-test", "/virtio/snd")
ACCESS_PLATFORM = Program("virtio-access-platform-test", "/virtio/access-platform")
FIRMWARE = Program("virtio-ccw-test", "/virtio/firmware", "s390x")
INTEL_IOMMU = Program("intel-iommu-test", "/q35/intel-iommu/two-registers")
VHOST_USER = Program("vhost-user-plug-test", "/vhost-user/plug")
BAD_DRIVER = Program("virtio-bad-driver-test", "/virtio/bad-driver")
QUEUE_RESET = Program("virtio-queue-reset-test", "/virtio/queue-reset")
PVSCSI = Program("pvscsi-test", "/pvscsi/request")
MODERN_DRIVER = Program("virtio-modern-driver-test", "/virtio/modern-driver/generation")
PCIE_AER = Program("pcie-aer-test", "/pcie-aer/recorded")
MEMORY_MAP = Program("tcg-memory-map-test", "/tcg/memory-map")
CONFIDENTIAL = Program("confidential-sim-test", "/confidential-sim/dma")


def fails(lab: Lab, program: Program, test: str) -> str:
    """What a test of a program says if it fails on the QEMU under test."""
    binary = qtest_program(lab.build.profile, program.name)
    path = f"/{program.target}{program.folder}/{test}"
    run = subprocess.run(
        [binary, "--tap", "-k", "-p", path],
        env={
            **os.environ,
            "QTEST_QEMU_BINARY": str(emulator(lab.build, program.target, lab.folder)),
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


def test_qtest_of_stable(lab: Lab) -> None:
    """A sound device answers a command without a header."""
    assert not fails(lab, SOUND, "short-command")


@pytest.mark.parametrize("test", ["plug/untranslated", "driver/does-not-accept"])
def test_qtest_of_the_fence(lab: Lab, test: str) -> None:
    """A device that need not translate plugs; a driver without the bit is not served."""
    assert not fails(lab, ACCESS_PLATFORM, test)


def test_qtest_of_firmware(lab: Lab) -> None:
    """The firmware accepts what iommu_platform=on demands."""
    assert not fails(lab, FIRMWARE, "iommu-platform")


@pytest.mark.parametrize("test", ["fault-event", "invalidation-event", "event-address"])
def test_qtest_of_iommu(lab: Lab, test: str) -> None:
    """A driver may write two registers of VT-d at once."""
    assert not fails(lab, INTEL_IOMMU, test)


@pytest.mark.parametrize(
    "test",
    ["offer/not-requested", "offer/plain", "refused/no-features", "refused/private-memory"],
)
def test_qtest_of_vhost(lab: Lab, test: str) -> None:
    """A device offers what was asked for; one whose back-end is unfit is refused, with a reason."""
    assert not fails(lab, VHOST_USER, test)


def test_qtest_of_reconnect(lab: Lab) -> None:
    """A back-end that leaves takes nothing else with it."""
    assert not fails(lab, VHOST_USER, "leaves")


@pytest.mark.parametrize(
    "test", ["early-notification", "needs-reset", "available-index", "no-available-ring"]
)
def test_qtest_of_ring(lab: Lab, test: str) -> None:
    """A driver that breaks the rules is not served, and ends nothing."""
    assert not fails(lab, BAD_DRIVER, test)


def test_qtest_of_robust(lab: Lab) -> None:
    """A request is over when its queue is reset."""
    assert not fails(lab, QUEUE_RESET, "disk")


@pytest.mark.parametrize("test", ["wrong-direction", "no-room"])
def test_qtest_of_disks(lab: Lab, test: str) -> None:
    """A request that can't be served ends, and QEMU doesn't."""
    assert not fails(lab, PVSCSI, test)


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
