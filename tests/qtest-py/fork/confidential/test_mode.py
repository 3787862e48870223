"""What is simulated: the modes that a machine has, and the CPUs that a trust domain has."""

from pathlib import Path

import pytest

from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.scenario.confidential import ID
from qap.verify.kit.lab import Lab
from qap.verify.kit.td_guest import td_started

NO_CPU_OF_A_TD = "simulates Intel TDX, which needs a 64-bit Intel CPU with RDRAND"
REFUSED = {
    "another vendor's": ("EPYC-Rome", NO_CPU_OF_A_TD),
    "made another vendor's": ("max,vendor=AuthenticAMD", NO_CPU_OF_A_TD),
    "no RDRAND": ("qemu64", NO_CPU_OF_A_TD),
    "RDRAND off": ("max,rdrand=off", NO_CPU_OF_A_TD),
    "no long mode": ("max,lm=off", NO_CPU_OF_A_TD),
    "40 bits": ("max,phys-bits=40", "phys-bits=40 leaves no room for the shared bit"),
    "47 bits": ("max,phys-bits=47", "phys-bits=47 leaves no room for the shared bit"),
    "too few leaves": ("max,level=0x20", "CPUID level 0x20 leaves out leaf 0x21"),
}


def said(lab: Lab, program: str, machine: str, simulation: str, cpu: str = "max") -> str:
    """What QEMU says when it refuses to start."""
    options = ["-object", f"x-confidential-sim,id={ID},{simulation}"]
    spec = Spec(f"{machine},confidential-guest-support={ID}", cpu=cpu, extra=options)
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path(program), spec))
    assert died.value.status == 1
    return died.value.said


@pytest.mark.parametrize(
    ("program", "machine", "mode", "has"),
    [
        ("qemu-system-x86_64", "q35", "secure-execution", "sev"),
        ("qemu-system-s390x", "s390-ccw-virtio", "sev", "secure-execution"),
    ],
)
def test_machine_can_not_simulate_another_architectures_guest(
    lab: Lab, program: str, machine: str, mode: str, has: str
) -> None:
    refusal = said(lab, program, machine, f"mode={mode}")
    assert f"can't simulate mode={mode} on machine type " in refusal
    assert f"which has mode={has}" in refusal


def test_no_mode_is_refused(lab: Lab) -> None:
    assert "mode=none simulates nothing" in said(lab, "qemu-system-x86_64", "q35", "mode=none")


def test_trust_domain_on_another_architecture_is_refused(lab: Lab) -> None:
    refusal = said(lab, "qemu-system-s390x", "s390-ccw-virtio", "mode=tdx")
    assert "can't simulate mode=tdx on machine type s390-ccw-virtio" in refusal


@pytest.mark.parametrize(("cpu", "why"), REFUSED.values(), ids=REFUSED)
def test_cpu_that_no_trust_domain_has_is_refused(lab: Lab, cpu: str, why: str) -> None:
    assert why in said(lab, "qemu-system-x86_64", "q35", "mode=tdx", cpu)


@pytest.mark.parametrize("cpu", ["max,phys-bits=52", "max,family=6,model=207", "SapphireRapids"])
def test_cpu_that_could_be_of_a_trust_domain_is_taken(tmp_path: Path, cpu: str) -> None:
    """A model that lacks the leaf gets it, and what the user says of a CPU stays."""
    with td_started(tmp_path, cpu=cpu) as guest:
        cpuid, home = guest.bare.cpu.cpuid, guest.td.cr3
        assert cpuid(0, home)[0] >= 0x21
        signature = cpuid(1, home)[0]
        wanted = 207 if "model=207" in cpu else 143
        assert (signature >> 4 & 0xF | signature >> 12 & 0xF0) == wanted
        assert cpuid(0x8000_0008, home)[0] & 0xFF == (52 if "52" in cpu else 48)
