"""The command line of a testbed's QEMU, and its device as device_add takes it."""

from collections.abc import Sequence
from pathlib import Path

from qap.hw import s390x_stub
from qap.machine.device import Device
from qap.machine.spec import Spec
from qap.matrix.setup import Setup

RAM_MIB = 128
# A VM that migrates has little RAM, unless it needs tables for an IOMMU.
MOVING_RAM_MIB = 32
INSISTS = "x-require-iommu-platform"
DUT = "dut"
CHARDEV = "char"
BETWEEN = "between"


def machine_spec(
    configs: Sequence[Setup], folder: Path, device: Device | None, args: Sequence[str]
) -> Spec:
    """The machine as it starts, with a device or without one.

    Args:
        configs: what is to be plugged; all share machine and vIOMMU.
        folder: for what a device keeps on disk.
        args: what else is on its command line.
    """
    first = configs[0]
    row, viommu = first.machine_row, first.viommu_row
    devices: list[Device] = [dict(port) for port in first.ports]
    devices += [device] if device else []
    if viommu.device:
        iommu = {**viommu.device, **first.tells, **({"device-iotlb": True} if first.ats else {})}
        devices.insert(0 if first.order != "after" else len(devices), iommu)
    words = [word for config in configs for word in _groups(config, folder)]
    extra = [part for words in dict.fromkeys(words) for part in words]
    if row.qemu == s390x_stub.TARGET:
        extra += s390x_stub.kernel_option(folder)
    moves = any(config.destination for config in configs)
    return Spec(
        machine=",".join(part for part in (first.machine_type, viommu.machine) if part),
        accel=row.accel,
        cpu=row.cpu,
        memory=MOVING_RAM_MIB if moves and not viommu.programmed else RAM_MIB,
        devices=devices,
        extra=[*args, *extra],
        qtest=True,
    )


def _groups(config: Setup, folder: Path) -> list[tuple[str, str]]:
    """Options and their values, which devices may share."""
    args = [*config.device_row.args, *config.interface_row.args]
    args = [word.replace("{folder}", str(folder)) for word in args]
    return list(zip(args[::2], args[1::2], strict=True))


def device_under_test(config: Setup, *, lenient: bool = False) -> Device:
    """The device under test, as device_add takes it.

    Args:
        lenient: it does not insist on ACCESS_PLATFORM, and says so.
    """
    row, machine = config.device_row, config.machine_row
    place = row.place or machine.place
    device: dict[str, object] = {"driver": config.device_type, "id": DUT, **place}
    if row.legacy or machine.transport == "ccw" or row.is_vdpa:
        device |= config.interface_row.properties
    device |= row.properties
    if row.vhost_user:
        between = config.between
        device |= {between.property: BETWEEN} if between else {"chardev": CHARDEV}
    if config.backend_row.ring_packed or not row.vhost_user:
        device["packed"] = True
    if config.requested:
        device["iommu_platform"] = True
    if config.ats:
        device["ats"] = True
    if lenient:
        device[INSISTS] = False
    return device


def in_slot(config: Setup, device: Device) -> Device:
    """A cold-plugged device in the first slot, where the machine would choose one."""
    mmio = config.machine_row.transport == "mmio"
    return {**device, "bus": "virtio-mmio-bus.0"} if mmio else device


def backend_args(config: Setup, socket: Path) -> list[str]:
    """What a cold-plugged device needs before it to reach its back-end."""
    args = ["-chardev", f"socket,id={CHARDEV},path={socket}"]
    if between := config.between:
        args += [between.option, f"{between.type},id={BETWEEN},chardev={CHARDEV}"]
    return args
