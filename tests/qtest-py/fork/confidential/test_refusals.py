"""Options that x-confidential-sim can't be used with, and the error messages."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qap.machine.device import Device
from qap.machine.machine import Machine, QemuDied
from qap.machine.qmp import QmpRefused
from qap.machine.spec import SHARED, Spec
from qap.oracle.fence import REFUSAL_PHRASE
from qap.scenario.confidential import ID
from qap.verify.kit.lab import Lab
from qap.verify.kit.se_guest import MEMORY, Start
from qap.verify.kit.sev_guest import sim_options

REFUSED = {
    "32 bits": ("qemu32", "needs a 64-bit CPU with RDRAND"),
    "no long mode": ("max,lm=off", "needs a 64-bit CPU with RDRAND"),
    "no RDRAND": ("qemu64", "needs a 64-bit CPU with RDRAND"),
}
HIDDEN = {
    "xlevel": ("max,xlevel=0x8000001e", "xlevel=0x8000001e hides"),
    "no xlevel": ("max,xlevel=0", "xlevel=0x0 hides"),
    "a model's own": ("EPYC-Rome,full-cpuid-auto-level=off", "xlevel=0x8000001e hides"),
}
VIOMMUS = ["intel-iommu", "amd-iommu", "virtio-iommu-pci"]


def test_other_accelerators_are_refused(refused: Callable[..., str]) -> None:
    assert "works under TCG alone" in refused(accel="qtest", cpu="qemu")


def test_memory_that_could_be_plugged_is_refused(refused: Callable[..., str]) -> None:
    assert "drop maxmem" in refused(extra=("-m", f"{MEMORY},slots=2,maxmem=1G"))


def test_cpu_without_a_facility_list_is_refused(refused: Callable[..., str]) -> None:
    assert "facility 158" in refused(cpu="max,stfle=off")


def test_incoming_migration_is_refused(refused: Callable[..., str]) -> None:
    assert "can't be migrated" in refused(extra=("-incoming", "defer"))


def test_outgoing_migration_is_refused(start: Start) -> None:
    guest = start()
    with pytest.raises(QmpRefused, match="can't be migrated"):
        guest.machine.qmp.execute("migrate", uri="exec:cat >/dev/null")


def test_snapshot_is_refused(start: Start) -> None:
    guest = start()
    assert "can't be migrated" in guest.machine.qmp.hmp("savevm one")
    assert "can't be used with x-confidential-sim" in guest.machine.qmp.hmp("loadvm one")


@pytest.mark.parametrize("command", ["xen-save-devices-state", "xen-load-devices-state"])
def test_file_of_states_is_refused(start: Start, tmp_path: Path, command: str) -> None:
    guest = start()
    guest.machine.qmp.execute("stop")
    with pytest.raises(QmpRefused, match="can't be used with x-confidential-sim"):
        guest.machine.qmp.execute(command, filename=str(tmp_path / "states"))
    assert not (tmp_path / "states").exists()


def test_kernel_vhost_is_refused(refused: Callable[..., str]) -> None:
    # The file is not used before the refusal, so any file will do.
    vsock = {"driver": "vhost-vsock-ccw", "guest-cid": 3, "vhostfd": "0"}
    assert "vhost can't be used with x-confidential-sim" in refused(vsock)


def test_host_device_is_refused(start: Start) -> None:
    guest = start()
    with pytest.raises(QmpRefused, match="vfio can't be used with x-confidential-sim"):
        guest.machine.plug({"driver": "vfio-pci", "sysfsdev": "/sys/devices/none"})


def test_object_in_use_cannot_be_deleted(start: Start) -> None:
    guest = start()
    with pytest.raises(QmpRefused, match="in use"):
        guest.machine.qmp.execute("object-del", id="cg0")


def test_it_warns_that_it_protects_nothing(start: Start) -> None:
    guest = start()
    assert "protects nothing" in guest.machine.process.tail()


@pytest.mark.parametrize(("cpu", "said"), REFUSED.values(), ids=REFUSED)
def test_cpu_that_can_not_is_refused(lab: Lab, cpu: str, said: str) -> None:
    refuses(lab, "q35", cpu, said)


@pytest.mark.parametrize(("cpu", "said"), HIDDEN.values(), ids=HIDDEN)
def test_cpu_that_hides_sev_is_refused(lab: Lab, cpu: str, said: str) -> None:
    refuses(lab, "q35", cpu, said)


def test_no_machine_is_refused(lab: Lab) -> None:
    refuses(lab, "none", "max", "can't be used with machine type none-machine")


def refuses(lab: Lab, machine: str, cpu: str, said: str) -> None:
    spec = Spec(f"{machine},confidential-guest-support={ID}", cpu=cpu, extra=sim_options())
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert died.value.status == 1
    assert said in died.value.said


@pytest.mark.skipif(not os.access("/dev/net/tun", os.W_OK), reason="/dev/net/tun is not for us")
def test_kernel_vhost_behind_a_netdev_is_refused(lab: Lab) -> None:
    """-netdev creates it before there is a machine."""
    tap = "tap,id=net,script=no,downscript=no,vhost=on,vhostforce=on,vhostfd=0"
    extra = [*sim_options(), "-netdev", tap]
    spec = Spec(f"q35,confidential-guest-support={ID}", cpu="max", extra=extra)
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert "vhost can't be used with x-confidential-sim" in died.value.said


@pytest.mark.parametrize("viommu", VIOMMUS)
def test_viommu_is_refused(lab: Lab, viommu: str) -> None:
    machine = f"q35,confidential-guest-support={ID}"
    # The simulation sets it on for virtio devices, and a virtio-iommu is not behind itself.
    off = {"iommu_platform": False} if viommu == "virtio-iommu-pci" else {}
    device = {"driver": viommu, **off}
    spec = Spec(machine, cpu="max", extra=sim_options(), devices=[device])
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert "A vIOMMU can't be used with x-confidential-sim" in died.value.said


@pytest.mark.parametrize("viommu", VIOMMUS)
@pytest.mark.parametrize("first", ["viommu", "device"])
def test_viommu_is_refused_before_what_is_behind_it(lab: Lab, viommu: str, first: str) -> None:
    """Nobody is told of a device that could not have stayed anyway."""
    behind = lab.backend("vhost-user-blk")
    devices: list[Device] = [
        {"driver": viommu},
        {"driver": "vhost-user-blk-pci", "chardev": "backend", "disable-legacy": "on"},
    ]
    spec = Spec(
        f"q35,confidential-guest-support={ID}",
        cpu="max",
        memory_backend=SHARED,
        extra=sim_options(),
        devices=devices if first == "viommu" else devices[::-1],
        chardevs=[f"socket,id=backend,path={behind.path}"],
    )
    with pytest.raises(QemuDied) as died:
        lab.owned.enter_context(Machine(lab.build.path("qemu-system-x86_64"), spec))
    assert "A vIOMMU can't be used with x-confidential-sim" in died.value.said
    assert REFUSAL_PHRASE not in died.value.said
