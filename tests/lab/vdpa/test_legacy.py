"""Legacy drivers of vDPA devices are served where the user says so, and else kept away."""

import pytest

from qap.machine.machine import QemuDied
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.vdpa_site import FRONTS, Plugged, Site, Start, plugged
from qap.virtio.driver import Behaviour
from qap.virtio.net import FEATURE_MAC

LEGACY = Behaviour(1 << FEATURE_MAC, sets_features_ok=False)
OLD = "pc-q35-9.2"
UNSAID = "the vDPA device is not known to serve one, unless vdpa-legacy-driver=on says so"
ONLY = {"disable-legacy": "off", "disable-modern": True}
VERSION_1 = mask([FeatureBit.VERSION_1])

each = pytest.mark.parametrize("name", FRONTS)
# libvduse asserts that the driver accepted VERSION_1: the daemon of a vduse disk ends.
able = pytest.mark.parametrize("name", ["sim nic"])


def transitional(site: Site, machine: str = "q35", **properties: object) -> Plugged:
    """A transitional device, driven through its legacy interface."""
    device = {**site.device, "addr": "0x5", "disable-legacy": "off"}
    named = {name.replace("_", "-"): value for name, value in properties.items()}
    return plugged(site.l2({**device, **named}, machine=machine), legacy=True)


def start(driven: Plugged) -> Status:
    """Start as a legacy driver does; returns the status read back."""
    driven.transport.reset()
    status = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK
    driven.transport.set_status(status)
    return driven.transport.status


@each
def test_legacy_driver_is_kept_away(site: Start, name: str) -> None:
    """Nothing that it does reaches the device; a modern driver after it is served."""
    here = site(name)
    driven = transitional(here)
    driven.transport.reset()
    here.asked.forget()
    driven.transport.config_write(0, b"\x52")
    assert Status.DRIVER_OK not in start(driven)
    assert here.asked.all() == []
    assert UNSAID in driven.machine.process.tail()
    modern = plugged(driven.machine)
    modern.serves()


@able
@pytest.mark.parametrize("machine", ["q35", OLD])
def test_legacy_driver_is_served_where_the_user_says_so(
    site: Start, name: str, machine: str
) -> None:
    """Old machine types say so."""
    here = site(name)
    said = {} if machine == OLD else {"vdpa_legacy_driver": True}
    driven = transitional(here, machine, **said)
    driven.serves(LEGACY)
    told = [call.values[0] for call in here.asked.all() if call.operation == "set_driver_features"]
    assert not told[-1] & VERSION_1


@able
def test_modern_and_legacy_drivers_take_turns(site: Start, name: str) -> None:
    """What the device was told of one is forgotten for the next."""
    here = site(name)
    driven = transitional(here, vdpa_legacy_driver=True)
    for _ in range(2):
        plugged(driven.machine).serves()
        plugged(driven.machine, legacy=True).serves(LEGACY)


@each
def test_device_with_a_legacy_interface_alone_is_refused_at_start(site: Start, name: str) -> None:
    here = site(name)
    with pytest.raises(QemuDied) as died:
        here.l2({**here.device, "addr": "0x5", **ONLY})
    assert died.value.status == 1
    assert "'dut' on bus 'pcie.0': it has a legacy interface only" in died.value.said
    assert UNSAID in died.value.said
    assert "use disable-modern=off,disable-legacy=on" in died.value.said


@each
def test_device_with_a_legacy_interface_alone_is_refused_while_the_vm_runs(
    site: Start, name: str
) -> None:
    here = site(name)
    machine = here.l2()
    device = {**here.device, "bus": "port0"}
    for _ in range(2):
        assert UNSAID in machine.refusal({**device, **ONLY})
    assert machine.alive
    machine.plug(device)


@each
def test_mmio_device_with_a_legacy_interface_alone_is_refused(site: Start, name: str) -> None:
    """That is what virtio-mmio has by default."""
    here = site(name)
    driver = str(here.device["driver"]).removesuffix("-pci")
    device = {**here.device, "driver": f"{driver}-device" if here.is_nic else driver}
    with pytest.raises(QemuDied) as died:
        here.l2(device, machine="microvm")
    assert UNSAID in died.value.said
    assert "use -global virtio-mmio.force-legacy=false" in died.value.said
