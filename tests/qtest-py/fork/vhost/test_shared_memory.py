"""vhost-user devices, and guest memory that their back-ends can't reach."""

from collections.abc import Sequence

import pytest

from qap.machine.catalog import vhost_user_types
from qap.machine.device import Device
from qap.machine.machine import QemuDied
from qap.machine.qmp import QmpRefused
from qap.verify.kit.lab import Lab

REFUSED = "is not shared, so a vhost-user backend can't reach it"
KIND = "vhost-user-fs"
LOST_S = 10.0
SLOTS = ("-m", "128,maxmem=1G,slots=4")

# A memory backend, and more options of a q35 with 128 MiB.
PRIVATE: dict[str, tuple[str, Sequence[str]]] = {
    "no backend": ("", ()),
    "ram": ("memory-backend-ram", ()),
    "memfd": ("memory-backend-memfd,share=off", ()),
    "file": ("memory-backend-file,mem-path=/dev/shm,share=off", ()),
    "mem-path": ("", ("-mem-path", "/dev/shm")),
    "second NUMA node": (
        "",
        (
            *("-object", "memory-backend-memfd,id=ram0,size=64M,share=on"),
            *("-object", "memory-backend-ram,id=ram1,size=64M"),
            *("-numa", "node,memdev=ram0", "-numa", "node,memdev=ram1"),
        ),
    ),
    "DIMM": (
        "memory-backend-memfd,share=on",
        (
            *SLOTS,
            *("-object", "memory-backend-ram,id=more,size=64M"),
            *("-device", "pc-dimm,memdev=more"),
        ),
    ),
    "virtio-mem": (
        "memory-backend-memfd,share=on",
        (
            *SLOTS,
            *("-object", "memory-backend-ram,id=more,size=64M"),
            *("-device", "virtio-mem-pci,memdev=more"),
        ),
    ),
}
SHARED: dict[str, tuple[str, Sequence[str]]] = {
    "ram": ("memory-backend-ram,share=on", ()),
    "memfd": ("memory-backend-memfd", ()),
    "file": ("memory-backend-file,mem-path=/dev/shm,share=on", ()),
    "private virtio-pmem": (
        "memory-backend-memfd,share=on",
        (
            *SLOTS,
            *("-object", "memory-backend-ram,id=more,size=64M"),
            *("-device", "virtio-pmem-pci,memdev=more"),
        ),
    ),
}
LATER: dict[str, Device] = {
    "DIMM": {"driver": "pc-dimm"},
    "virtio-mem": {"driver": "virtio-mem-pci", "bus": "port1"},
}
PLACES = [
    (kind, variant)
    for kind, row in vhost_user_types().items()
    for variant in ("pci modern", "mmio 2", "ccw 2")
    if variant.split()[0] in row.transports
]


@pytest.mark.parametrize(("kind", "variant"), PLACES)
def test_device_is_refused(lab: Lab, kind: str, variant: str) -> None:
    behind = lab.backend(kind)
    with pytest.raises(QemuDied) as died:
        lab.cold_plugged(kind, behind, variant, memory_backend="memory-backend-ram")
    assert REFUSED in died.value.said


@pytest.mark.parametrize("memory", PRIVATE)
def test_memory_that_is_not_shared_is_refused(lab: Lab, memory: str) -> None:
    backend, extra = PRIVATE[memory]
    behind = lab.backend(KIND)
    machine = lab.machine(memory_backend=backend, extra=extra)
    with pytest.raises(QmpRefused, match=REFUSED):
        machine.plug(lab.device(KIND, behind))


@pytest.mark.parametrize("memory", SHARED)
def test_memory_that_is_shared_is_not(lab: Lab, memory: str) -> None:
    backend, extra = SHARED[memory]
    behind = lab.backend(KIND)
    lab.machine(memory_backend=backend, extra=extra).plug(lab.device(KIND, behind))


@pytest.mark.parametrize("backend", ["there", "lost"])
@pytest.mark.parametrize("device", LATER.values(), ids=LATER)
def test_private_memory_can_not_join(lab: Lab, device: Device, backend: str) -> None:
    behind = lab.backend(KIND)
    machine = lab.machine(
        {"driver": "pcie-root-port", "id": "port1", "chassis": 2, "slot": 2},
        lab.device(KIND, behind),
        extra=[
            *SLOTS,
            *("-object", "memory-backend-ram,id=private,size=64M"),
            *("-object", "memory-backend-ram,id=shared,size=64M,share=on"),
        ],
    )
    if backend == "lost":
        behind.close()
    with pytest.raises(QmpRefused, match=REFUSED):
        machine.plug({**device, "memdev": "private"})
    machine.plug({**device, "memdev": "shared"})


def test_net_whose_back_end_is_away_is_refused(lab: Lab) -> None:
    behind = lab.backend("vhost-user-net")
    machine = lab.machine(
        memory_backend="memory-backend-ram",
        extra=["-netdev", f"vhost-user,id=net0,chardev={behind.path.stem}"],
    )
    behind.close()
    machine.qmp.wait_event("NETDEV_VHOST_USER_DISCONNECTED", lambda _: True, LOST_S)
    with pytest.raises(QmpRefused, match=REFUSED):
        machine.plug({"driver": "virtio-net-pci", "bus": "port0", "netdev": "net0"})


@pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
def test_device_in_qemu_does_not_mind(lab: Lab, kind: str) -> None:
    device: Device = {"driver": f"{kind}-pci", "bus": "port0"}
    machine = lab.machine(
        {**device, "drive": "none"} if kind == "virtio-blk" else device,
        memory_backend="",
        blockdevs=["null-co,node-name=none"],
    )
    assert machine.process.alive
