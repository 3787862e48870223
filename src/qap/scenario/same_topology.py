"""The topology of an explained command line with one virtio device, as a Spec for qtest.

What is behind the device is replaced: disks by null-co, networks by user networks, vhost-user
programs by a back-end in Python. Devices that are neither virtio nor on the way to it are left
out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qap.explain.backend import Kind
from qap.explain.command import Command
from qap.explain.explanation import Explanation
from qap.explain.knowledge import knowledge
from qap.explain.machine_type import NEWEST, Machine
from qap.explain.prediction import INSISTS, Prediction
from qap.machine.catalog import machine_types
from qap.machine.device import Device
from qap.machine.spec import SHARED, Spec

CHARDEV = "back-end"
BETWEEN = "between"
MEMORY_MIB = 256
# Properties of a virtio device that decide, or say where it is.
KEPT = frozenset(
    [
        *("id", "bus", "addr", "devno", "multifunction", "iommu_platform"),
        *("disable-legacy", "disable-modern", "max_revision"),
    ]
)
MACHINE = ("default-bus-bypass-iommu", "pcie")
# Emulators that the profiles build.
TARGETS = ("x86_64", "s390x")


@dataclass(frozen=True)
class Bench:
    """A machine on which one device is plugged.

    Attributes:
        spec: the machine, with the device if that is cold-plugged.
        hot: the device as HMP's device_add takes it; "" if it is cold-plugged.
    """

    spec: Spec
    hot: str


def obstacle(explanation: Explanation, prediction: Prediction) -> str:
    """Why a device can't be plugged here; "" if it can."""
    machine = explanation.machine
    if machine.target not in TARGETS:
        return f"no profile builds qemu-system-{machine.target}"
    if not machine.kind:
        return f"the machine type {machine.type} is not known"
    if machine.version and machine.version > NEWEST:
        return f"QEMU 10.0 has no machine type {machine.type}"
    if prediction.backend.kind in (Kind.KERNEL, Kind.VDPA):
        return f"it is served {prediction.backend.kind}: see ./qap lab"
    return f"it needs {prediction.family.needs}" if prediction.family.needs else ""


def bench(
    explanation: Explanation, prediction: Prediction, folder: Path, *, is_base: bool
) -> Bench:
    """The machine for one device.

    Args:
        folder: where the back-end's socket is, and what a device keeps on disk.
        is_base: for stock QEMU, which lacks properties of the fork.
    """
    command, machine = explanation.command, explanation.machine
    device, args = _device(prediction, folder, is_base=is_base)
    listed: list[Device] = []
    for item in command.devices:
        if item is prediction.item:
            listed += [] if item.hot else [device]
        elif item.opts.get("driver") in {*knowledge().bus, *knowledge().iommu} and not item.hot:
            listed.append(dict(item.opts.pairs))
    if not any(item is prediction.item for item in command.devices):
        listed.append(device)
    globals_ = _globals(command, machine, prediction, is_base=is_base)
    spec = Spec(
        machine=_machine(command, machine),
        accel="qtest",
        memory=MEMORY_MIB,
        memory_backend="" if prediction.private else SHARED,
        devices=listed,
        extra=[*globals_, *args],
        qtest=True,
    )
    hot = ",".join(f"{key}={value}" for key, value in device.items())
    return Bench(spec, hot.removeprefix("driver=") if prediction.item.hot else "")


def _machine(command: Command, machine: Machine) -> str:
    row = machine_types()[machine.kind]
    version = machine.version
    name = row.versioned.format(f"{version[0]}.{version[1]}") if version else row.name
    given = [(key, command.machine.get(key)) for key in MACHINE]
    return ",".join([name, *(f"{key}={value}" for key, value in given if value)])


def _globals(
    command: Command, machine: Machine, prediction: Prediction, *, is_base: bool
) -> list[str]:
    """-global as given, after what a confidential guest would set."""
    found: list[str] = []
    if machine.confidential:
        found.append("virtio-device.iommu_platform=on")
        if prediction.kind.transport == "mmio" and not is_base:
            found.append("virtio-mmio.force-legacy=off")
        if _may_be_legacy(prediction):
            found.append(f"{prediction.kind.driver}.disable-legacy=on")
    properties = {*KEPT, "force-legacy", *([] if is_base else [INSISTS])}
    found += [
        f"{one.driver}.{one.property}={one.value}"
        for one in command.globals
        if one.property in properties and one.driver.startswith(("virtio", "vhost", "pci-device"))
    ]
    return [word for value in found for word in ("-global", value)]


def _may_be_legacy(prediction: Prediction) -> bool:
    kind = prediction.kind
    return kind.transport == "pci" and prediction.family.legacy and not kind.variant


def _device(
    prediction: Prediction, folder: Path, *, is_base: bool
) -> tuple[Mapping[str, object], Sequence[str]]:
    """The device with what is behind it replaced, and what it needs on the command line."""
    family, item = prediction.family, prediction.item
    kept = KEPT if is_base else KEPT | {INSISTS}
    device: dict[str, object] = {"driver": item.opts.get("driver")}
    device |= {key: value for key, value in item.opts.pairs if key in kept}
    device |= family.properties
    args = [word.replace("{folder}", str(folder)) for word in family.args]
    if family.vhost_user:
        between = family.vhost_user.between
        args += ["-chardev", f"socket,id={CHARDEV},path={folder / CHARDEV}"]
        if between:
            args += [between.option, f"{between.type},id={BETWEEN},chardev={CHARDEV}"]
            device[between.property] = BETWEEN
        else:
            device["chardev"] = CHARDEV
    return device, args
