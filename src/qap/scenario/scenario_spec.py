"""The machine of a scenario, and its device as device_add takes it."""

from collections.abc import Sequence
from pathlib import Path

from qap.machine.catalog import DeviceType, device_types, viommus
from qap.machine.chardev import RECONNECT_MS
from qap.machine.device import Device
from qap.machine.guest import tools
from qap.machine.guest.boot import Boot
from qap.machine.guest.io_checks import HostData
from qap.machine.spec import Spec
from qap.scenario import confidential
from qap.scenario.scenario import Scenario

DISK = "disk0"  # as the catalogue has it
DUT = "dut"
BETWEEN = "between0"
IOTHREAD = "iothread0"
BUSY = "busy"
BUSY_SIZE = 1 << 20
BLOCK = 2  # the virtio device ID (virtio 1.3, 5.2)


def scenario_spec(
    scenario: Scenario,
    socket: Path | None,
    host_data: HostData,
    *,
    is_base: bool,
    ports: Sequence[Device] | None = None,
) -> Spec:
    """The machine as it starts, with the device in it if that is cold-plugged.

    Args:
        socket: of the back-end of the device, if it has one.
        is_base: it runs on stock QEMU, which can't simulate a confidential guest.
        ports: where devices can be plugged, if not one port for the device alone.
    """
    guest, place, check = scenario.settings, scenario.machine_type, scenario.check
    machine = place.called
    if scenario.bypass:
        machine += ",default-bus-bypass-iommu=on"
    viommu = viommus()[scenario.viommu]
    devices = scenario.ports if ports is None else list(ports)
    chardevs: list[str] = []
    before: list[str] = []
    if scenario.plug == "cold":
        devices += scenario_devices(scenario, socket)
        if socket:
            chardevs.append(chardev_option(scenario, socket))
            before = between_option(scenario, socket)
    if viommu.device:
        iommu = {**viommu.device, **({"device-iotlb": True} if scenario.ats else {})}
        if scenario.behind and "addr" in iommu:
            iommu["bus"] = place.root
        devices.insert(0 if scenario.order == "before" else len(devices), iommu)
    devices += [*_tools(scenario), *_busy(scenario)]
    beside = _busy_kind(scenario).modules if scenario.busy else ()
    drivers = (*scenario.kind.modules, *device_types()["virtio-rng"].modules, *viommu.modules)
    with_tools = tools.MODULES if check.tools else ()
    modules = tuple(dict.fromkeys((*place.modules, *drivers, *beside, *with_tools)))
    appended = (place.append, viommu.append, check.append)
    spec = Spec(
        machine=machine,
        cpu=guest.cpu,
        memory=guest.memory,
        devices=devices,
        chardevs=chardevs,
        blockdevs=_blockdevs(scenario, host_data),
        extra=[*before, *_extra(scenario, host_data.folder)],
        boot=Boot(guest, modules, " ".join(filter(None, appended))),
    )
    if not scenario.confidential:
        return spec
    if is_base:
        return confidential.bounced(spec)
    return confidential.simulated(spec, scenario.confidential)


def chardev_option(scenario: Scenario, socket: Path) -> str:
    """The value of -chardev in front of a back-end's socket; its id is the socket's name."""
    again = f",reconnect-ms={RECONNECT_MS}" if scenario.reconnects else ""
    return f"socket,id={socket.stem},path={socket}{again}"


def between_option(scenario: Scenario, socket: Path) -> list[str]:
    """What is between the chardev and the device, as an option and its value; empty if nothing."""
    between = scenario.between
    if between is None:
        return []
    return [between.option, f"{between.type},id={BETWEEN},chardev={socket.stem}"]


def scenario_devices(scenario: Scenario, socket: Path | None) -> list[Device]:
    """The device under test and those that are plugged into it, in the order of their plugging."""
    return [scenario_device(scenario, socket), *scenario.check.after]


def scenario_device(scenario: Scenario, socket: Path | None) -> Device:
    """The device under test, as device_add takes it."""
    kind = scenario.kind
    device: dict[str, object] = {"driver": scenario.driver, "id": DUT, **scenario.place}
    if socket is not None:
        between = scenario.between
        device |= {between.property: BETWEEN} if between else {"chardev": socket.stem}
    device |= {**(scenario.modern if kind.legacy else {}), **kind.properties}
    if scenario.queues:
        device[kind.queues] = scenario.queues
    if scenario.iothread:
        device["iothread"] = IOTHREAD
    device |= {name: True for name in ("packed", "ats") if getattr(scenario, name)}
    if scenario.fail_requests:
        device["x-fail-requests"] = True
    return {**device, "iommu_platform": scenario.iommu_platform}


def on_root(scenario: Scenario) -> dict[str, object]:
    """Properties of a modern device on the machine's root bus.

    QEMU would put one that names no bus on a pxb, if there is one, and refuse it there.
    """
    if scenario.transport != "pci":
        return {}
    root = scenario.machine_type.root
    return {"disable-legacy": "on", **({"bus": root} if scenario.behind and root else {})}


def _tools(scenario: Scenario) -> list[Device]:
    """What brings a guest its tools."""
    if not scenario.check.tools:
        return []
    place = scenario.machine_type
    driver = device_types()["virtio-9p"].driver(place.transport)
    share: Device = {"driver": driver, "fsdev": tools.TAG, "mount_tag": tools.TAG}
    return [{**share, **on_root(scenario), "iommu_platform": True}]


def _busy_kind(scenario: Scenario) -> DeviceType:
    """The type of the disk that is read meanwhile: another than the device under test."""
    known = device_types()
    return known["virtio-scsi" if scenario.kind.device_id == BLOCK else "virtio-blk"]


def _busy(scenario: Scenario) -> list[Device]:
    """The disk that is read meanwhile."""
    if not scenario.busy:
        return []
    place, kind = scenario.machine_type, _busy_kind(scenario)
    device: Device = {"driver": kind.driver(place.transport), "id": BUSY, **on_root(scenario)}
    device = {**device, "iommu_platform": True}
    if kind.device_id == BLOCK:
        return [{**device, "drive": BUSY}]
    return [device, {"driver": "scsi-hd", "bus": f"{BUSY}.0", "drive": BUSY}]


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
    row = scenario.machine_type
    firmware = ["-bios", row.firmware] if row.firmware else []
    return [*row.modern_args, *firmware, *words]


def _blockdevs(scenario: Scenario, host_data: HostData) -> list[str]:
    """A disk that QEMU itself serves; a back-end brings its own."""
    kind = scenario.kind
    busy = f"driver=null-co,node-name={BUSY},size={BUSY_SIZE},read-zeroes=on"
    disks = [busy] if scenario.busy else []
    if kind.check == "disk" and not kind.vhost_user:
        disks.append(f"driver=file,node-name={DISK},filename={host_data.image}")
    return disks
