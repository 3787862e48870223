"""The machine of a scenario, and its device as device_add takes it."""

from pathlib import Path

from qap.machine.catalog import device_types, viommus
from qap.machine.device import Device
from qap.machine.guest import tools
from qap.machine.guest.boot import Boot
from qap.machine.guest.io_checks import HostData
from qap.machine.spec import Spec
from qap.scenario import confidential
from qap.scenario.scenario import Scenario

DISK = "disk0"  # as the catalogue has it
DUT = "dut"
IOTHREAD = "iothread0"


def scenario_spec(
    scenario: Scenario, socket: Path | None, host_data: HostData, *, is_base: bool
) -> Spec:
    """The machine as it starts, with the device in it if that is cold-plugged.

    Args:
        socket: of the back-end of the device, if it has one.
        is_base: it runs on stock QEMU, which can't simulate a confidential guest.
    """
    guest, place, check = scenario.settings, scenario.machine_type, scenario.check
    machine = place.called
    if scenario.bypass:
        machine += ",default-bus-bypass-iommu=on"
    viommu = viommus()[scenario.viommu]
    devices: list[Device] = scenario.ports
    chardevs: list[str] = []
    if scenario.plug == "cold":
        devices += [scenario_device(scenario, socket), *check.after]
        if socket:
            chardevs.append(f"socket,id={socket.stem},path={socket}")
    if viommu.device:
        iommu = {**viommu.device, **({"device-iotlb": True} if scenario.ats else {})}
        devices.insert(0 if scenario.order == "before" else len(devices), iommu)
    devices += _tools(scenario)
    drivers = (*scenario.kind.modules, *device_types()["virtio-rng"].modules, *viommu.modules)
    with_tools = tools.MODULES if check.tools else ()
    modules = tuple(dict.fromkeys((*place.modules, *drivers, *with_tools)))
    appended = (place.append, viommu.append, check.append)
    spec = Spec(
        machine=machine,
        cpu=guest.cpu,
        memory=guest.memory,
        devices=devices,
        chardevs=chardevs,
        blockdevs=_blockdevs(scenario, host_data),
        extra=_extra(scenario, host_data.folder),
        boot=Boot(guest, modules, " ".join(filter(None, appended))),
    )
    if not scenario.confidential:
        return spec
    if is_base:
        return confidential.bounced(spec)
    return confidential.simulated(spec, scenario.confidential)


def scenario_device(scenario: Scenario, socket: Path | None) -> Device:
    """The device under test, as device_add takes it."""
    kind = scenario.kind
    device: dict[str, object] = {"driver": scenario.driver, "id": DUT, **scenario.place}
    if socket is not None:
        device["chardev"] = socket.stem
    device |= {**(scenario.modern if kind.legacy else {}), **kind.properties}
    if scenario.queues:
        device[kind.queues] = scenario.queues
    if scenario.iothread:
        device["iothread"] = IOTHREAD
    device |= {name: True for name in ("packed", "ats") if getattr(scenario, name)}
    return {**device, "iommu_platform": scenario.iommu_platform}


def _tools(scenario: Scenario) -> list[Device]:
    """What brings a guest its tools."""
    if not scenario.check.tools:
        return []
    place = scenario.machine_type
    driver = device_types()["virtio-9p"].driver(place.transport)
    share: Device = {"driver": driver, "fsdev": tools.TAG, "mount_tag": tools.TAG}
    modern = {"disable-legacy": "on"} if place.transport == "pci" else {}
    return [{**share, **modern, "iommu_platform": True}]


def _extra(scenario: Scenario, folder: Path) -> list[str]:
    """What else the device and its guest need on QEMU's command line."""
    check = scenario.check
    # A device of the catalogue keeps a disk of its own in args; here a disk has data.
    own = () if check.check == "disk" else scenario.kind.args
    words = [word.replace("{folder}", str(folder)) for word in check.args or own]
    if check.tools:
        words += ["-fsdev", tools.fsdev(scenario.settings.architecture)]
    if scenario.queues:
        words += ["-smp", str(scenario.queues)]
    if scenario.iothread:
        words += ["-object", f"iothread,id={IOTHREAD}"]
    return [*scenario.machine_type.modern_args, *words]


def _blockdevs(scenario: Scenario, host_data: HostData) -> list[str]:
    """A disk that QEMU itself serves; a back-end brings its own."""
    kind = scenario.kind
    if kind.check != "disk" or kind.program:
        return []
    return [f"driver=file,node-name={DISK},filename={host_data.image}"]
