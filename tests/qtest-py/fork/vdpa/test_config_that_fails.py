"""A netdev of a vDPA device whose configuration can't be read.

The kernel is a shared library here: no device of the kernel lab fails so.
"""

import pytest

from qap.machine.machine import Machine
from qap.machine.qmp import QmpRefused
from qap.machine.spec import Spec
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.fake_vhost import DEVICE, GET_CONFIG, NETWORK, SET_FEATURES, fake_vhost
from qap.verify.kit.lab import Lab

# virtio 1.3, 5.1.3.
MQ = 22
OFFERED = mask([FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM, MQ])


def started(lab: Lab, fails: int) -> Machine:
    """A machine without a device, in front of a kernel that fails this request."""
    machine = Machine(
        lab.build.path("qemu-system-x86_64"),
        Spec("q35", "qtest", memory=64, qtest=True),
        log=lab.log(),
        wrapper=fake_vhost(lab.folder, OFFERED, NETWORK, fails),
    )
    return lab.owned.enter_context(machine)


def assert_refused(machine: Machine) -> None:
    with pytest.raises(QmpRefused, match="Fail to get config from vhost-vDPA device"):
        machine.qmp.execute("netdev_add", type="vhost-vdpa", id="net0", vhostdev=DEVICE)
    assert "net0" not in machine.qmp.hmp("info network")


def test_netdev_is_refused_and_not_there(lab: Lab) -> None:
    """QEMU asks it how many queue pairs it has."""
    machine = started(lab, GET_CONFIG)
    assert_refused(machine)
    assert_refused(machine)


def test_device_that_takes_no_features_has_no_netdev(lab: Lab) -> None:
    """They tell it that QEMU is no legacy driver, before its configuration is read."""
    assert_refused(started(lab, SET_FEATURES))
