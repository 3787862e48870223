"""vhost-user devices on CCW: what a driver reads there, and what their back-ends are told.

Stock QEMU has none of those that have configuration of their back-ends. They have no revision 0.
"""

import pytest

from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem, Subchannel
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import GuestMemory
from qap.matrix.config_reading import ConfigReader, misread
from qap.oracle import config
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.checks import UP_TO_FEATURES_OK
from qap.verify.kit.lab import Lab
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import FrontendRequest
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Driver

TYPES = {
    kind: row
    for kind, row in vhost_user_types().items()
    if "ccw" in row.fork_transports and row.vhost_user and row.vhost_user.config
}
TOLD = mask([FeatureBit.VERSION_1, FeatureBit.VHOST_USER_PROTOCOL_FEATURES])


def plugged(lab: Lab, kind: str) -> tuple[Subchannel, Backend]:
    """A device of this type, which nobody has driven, and its back-end."""
    row = TYPES[kind]
    assert row.vhost_user
    backend = lab.backend(kind, config=bytes(range(1, 1 + row.vhost_user.config)))
    chardev = {"chardev": backend.path.stem}
    machine = lab.s390x({"driver": row.driver("ccw"), **row.properties, **chardev})
    (subchannel,) = ChannelSubsystem(Cpu(machine.qtest, machine.serial)).scan()
    backend.settle()
    backend.forget()
    return subchannel, backend


def told(backend: Backend) -> list[int]:
    """The features that a back-end was given, one after the other."""
    backend.settle()
    return [message.words[0] for message in backend.requests(FrontendRequest.SET_FEATURES)]


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize("kind", TYPES)
def test_back_end_is_told_of_a_modern_driver_once(lab: Lab, kind: str, revision: int) -> None:
    subchannel, backend = plugged(lab, kind)
    device = VirtioCcw(subchannel, revision)
    device.reset()
    assert told(backend) == []
    device.config_read(0, 8)
    for status in UP_TO_FEATURES_OK[:2]:
        device.set_status(status)
        device.config_read(0, 8)
    assert told(backend) == [TOLD]


@pytest.mark.parametrize("kind", TYPES)
def test_back_end_is_not_told_of_a_driver_that_reads_nothing(lab: Lab, kind: str) -> None:
    subchannel, backend = plugged(lab, kind)
    Driver(VirtioCcw(subchannel, 2), GuestMemory(subchannel.cpu.qtest)).negotiate()
    assert told(backend) == []


@pytest.mark.parametrize("kind", TYPES)
def test_modern_driver_reads_the_same_at_every_step(lab: Lab, kind: str) -> None:
    subchannel, _ = plugged(lab, kind)
    row = TYPES[kind]
    size = config.size(row.config_layout)
    readings = [*ConfigReader(VirtioCcw(subchannel, 2), 0, size, mask(row.accepts)).run()]
    assert misread(readings, row.config_layout, "big") == []
