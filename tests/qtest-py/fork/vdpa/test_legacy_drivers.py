"""Legacy drivers of vDPA devices in guests that no vDPA device can serve, whatever the user says.

The kernel is a shared library here: there is none for these guests in the kernel lab.
"""

from dataclasses import replace

import pytest

from qap.fork.build import Build
from qap.host.errors import MissingError
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.fake_vhost import DEVICE, NETWORK, fake_vhost
from qap.verify.kit.lab import Lab
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.transports import TRANSPORTS, Beside

OFFERED = mask([FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM])
NETDEV = ("-netdev", f"vhost-vdpa,id=net0,vhostdev={DEVICE}")
BIG_ENDIAN = "the guest is big-endian, which a vDPA device can't be told"
WEAK = "the guest's CPU reorders accesses to memory"
# In the second one vdpa-legacy-driver is on.
MACHINES = ("s390-ccw-virtio", "s390-ccw-virtio-9.2")


def started(lab: Lab, spec: Spec, emulator: str = "qemu-system-s390x") -> Machine:
    """A machine whose vDPA devices are network cards; it ends with the test."""
    machine = Machine(
        lab.build.path(emulator),
        spec,
        log=lab.log(),
        wrapper=fake_vhost(lab.folder, OFFERED, NETWORK),
    )
    return lab.owned.enter_context(machine)


def ccw(variant: str, machine: str, **properties: object) -> Spec:
    beside = Beside(extra=NETDEV)
    spec = TRANSPORTS[variant].spec("virtio-net", (), beside, netdev="net0", **properties)
    return replace(spec, machine=machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_legacy_driver_of_a_big_endian_guest_is_kept_away(lab: Lab, machine: str) -> None:
    here = started(lab, ccw("ccw 0", machine))
    transport = TRANSPORTS["ccw 0"].connect(here)
    driver = Driver(transport, GuestMemory(here.qtest), Behaviour(0, sets_features_ok=False))
    driver.negotiate()
    driver.queue(0)
    driver.queue(1)
    assert Status.DRIVER_OK not in driver.start()
    assert here.alive
    assert BIG_ENDIAN in here.process.tail()


@pytest.mark.parametrize("machine", MACHINES)
def test_device_for_legacy_drivers_of_a_big_endian_guest_is_refused(lab: Lab, machine: str) -> None:
    with pytest.raises(QemuDied) as died:
        started(lab, ccw("ccw 0", machine, max_revision=0))
    assert died.value.status == 1
    assert BIG_ENDIAN in died.value.said
    assert "use max_revision=1 or higher" in died.value.said


def test_modern_driver_of_a_big_endian_guest_is_let_through(lab: Lab) -> None:
    transport = TRANSPORTS["ccw 2"].connect(started(lab, ccw("ccw 2", "s390-ccw-virtio")))
    transport.reset()
    transport.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
    transport.set_driver_features(mask([FeatureBit.VERSION_1]))
    transport.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
    assert Status.FEATURES_OK in transport.status


@pytest.mark.parametrize(
    "device",
    [
        {"driver": "virtio-net-device"},
        {"driver": "virtio-net-pci", "disable-legacy": "off", "disable-modern": True},
    ],
    ids=["mmio", "pci"],
)
def test_device_for_legacy_drivers_of_a_weakly_ordered_guest_is_refused(
    lab: Lab, device: Device
) -> None:
    """or1k, of the build profile big-endian."""
    build = Build("big-endian", is_base=lab.build.is_base)
    try:
        build.path("qemu-system-or1k")
    except MissingError as missing:
        pytest.skip(str(missing))
    devices = [{**device, "netdev": "net0", "vdpa-legacy-driver": True}]
    spec = Spec("virt", memory=128, devices=devices, extra=NETDEV, qtest=True)
    with pytest.raises(QemuDied) as died:
        started(replace(lab, build=build), spec, "qemu-system-or1k")
    assert died.value.status == 1
    assert WEAK in died.value.said
