"""The machine of a scenario, and its device as device_add takes it."""

from qap.machine.catalog import device_types, viommus
from qap.machine.device import Device
from qap.machine.guest.boot import Boot
from qap.machine.guest.io_checks import HostData
from qap.machine.spec import Spec
from qap.scenario import confidential
from qap.scenario.scenario import Scenario
from qap.vhost_user.programs import BackendProcess

DISK = "disk0"  # as the catalogue has it


def scenario_spec(
    scenario: Scenario, service: BackendProcess | None, host_data: HostData, *, is_base: bool
) -> Spec:
    """The machine as it starts, with the device in it if that is cold-plugged.

    Args:
        service: the back-end of the device, if it has one.
        is_base: it runs on stock QEMU, which can't simulate a confidential guest.
    """
    guest, place = scenario.settings, scenario.machine_type
    machine = place.name
    if scenario.bypass:
        machine += ",default-bus-bypass-iommu=on"
    viommu = viommus()[scenario.viommu]
    devices: list[Device] = place.ports
    chardevs: list[str] = []
    if scenario.plug == "cold":
        devices.append(scenario_device(scenario, service))
        if service:
            chardevs.append(f"socket,id={service.socket.stem},path={service.socket}")
    if viommu.device:
        devices.insert(0 if scenario.order == "before" else len(devices), dict(viommu.device))
    modules = (*scenario.kind.modules, *device_types()["virtio-rng"].modules, *viommu.modules)
    spec = Spec(
        machine=machine,
        cpu=guest.cpu,
        memory=guest.memory,
        devices=devices,
        chardevs=chardevs,
        blockdevs=_blockdevs(scenario, host_data),
        boot=Boot(guest, modules, viommu.append),
    )
    if not scenario.confidential:
        return spec
    if is_base:
        return confidential.bounced(spec)
    return confidential.simulated(spec, scenario.confidential)


def scenario_device(scenario: Scenario, service: BackendProcess | None) -> Device:
    """The device under test, as device_add takes it."""
    place, kind = scenario.machine_type, scenario.kind
    device: dict[str, object] = {"driver": scenario.driver, "id": "dut", **place.place}
    if service is not None:
        device["chardev"] = service.socket.stem
    return {
        **device,
        **(place.modern if kind.legacy else {}),
        **kind.properties,
        "iommu_platform": scenario.iommu_platform,
    }


def _blockdevs(scenario: Scenario, host_data: HostData) -> list[str]:
    """A disk that QEMU itself serves; a back-end brings its own."""
    kind = scenario.kind
    if kind.check != "disk" or kind.program:
        return []
    return [f"driver=file,node-name={DISK},filename={host_data.image}"]
