"""A vDPA device learns of a modern driver before its configuration is read, and is never taken to
have a legacy one for that."""

import pytest

from qap.lab.vdpa_calls import Call
from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status
from qap.verify.kit.vdpa_site import FRONTS, Plugged, Site, Start, plugged
from qap.virtio.driver import Behaviour, Driver

# The bit without which some devices take nothing goes with what is told.
TOLD = Call("set_driver_features", (mask([FeatureBit.VERSION_1, FeatureBit.ACCESS_PLATFORM]),))
VERSION_1 = mask([FeatureBit.VERSION_1])
READ = "get_config"

each = pytest.mark.parametrize("name", FRONTS)


def features(site: Site) -> list[int]:
    """What the device's driver was told to have been accepted, one after the other."""
    return [call.values[0] for call in site.asked.all() if call.operation == TOLD.operation]


def fresh(site: Site) -> Plugged:
    """The device of a new L2, reset by a modern driver."""
    here = site.plugged(disable_legacy="on")
    here.transport.reset()
    site.asked.forget()
    return here


@each
def test_device_is_told_before_configuration_is_read(site: Start, name: str) -> None:
    """Once, and of nothing more."""
    here = site(name)
    transport = fresh(here).transport
    transport.config_read(0, 4)
    for status in (Status.ACKNOWLEDGE, Status.ACKNOWLEDGE | Status.DRIVER):
        transport.set_status(status)
        transport.config_read(0, 4)
    seen = [call for call in here.asked.all() if call.operation in (TOLD.operation, READ)]
    assert seen[0] == TOLD
    assert seen.count(TOLD) == 1
    assert {call.operation for call in seen[1:]} == {READ}


@each
def test_device_is_told_before_configuration_is_written(site: Start, name: str) -> None:
    here = site(name)
    fresh(here).transport.config_write(0, b"\x52")
    operations = [call.operation for call in here.asked.all()]
    assert here.asked.all()[0] == TOLD
    assert "set_config" in operations


@pytest.mark.parametrize("name", ["vduse", "sim"])
def test_device_has_no_legacy_driver_because_qemu_reads_its_configuration(
    site: Start, name: str
) -> None:
    """While it is plugged, when no driver is there yet."""
    here = site(name)
    here.plugged(disable_legacy="on")
    told = features(here)
    assert told
    assert all(word & VERSION_1 for word in told)
    operations = [call.operation for call in here.asked.all()]
    assert operations.index(TOLD.operation) < operations.index(READ)


@each
def test_device_is_told_nothing_early_of_a_driver_that_reads_no_configuration(
    site: Start, name: str
) -> None:
    here = site(name)
    driven = fresh(here)
    driver = Driver(driven.transport, driven.memory)
    driver.negotiate()
    assert features(here) == []
    driver.queue(0)
    driver.start()
    assert features(here) == [TOLD.values[0] | driver.accepted]


@each
def test_device_is_served_with_the_features_that_the_driver_accepts(site: Start, name: str) -> None:
    """What was told early is not what the rings are served with."""
    here = site(name)
    driven = fresh(here)
    driven.transport.config_read(0, 4)
    driver = driven.serves(Behaviour(VERSION_1))
    assert features(here)[-1] == TOLD.values[0] | driver.accepted


@each
def test_device_forgets_what_it_was_told_when_the_driver_resets_it(site: Start, name: str) -> None:
    here = site(name)
    transport = fresh(here).transport
    for _ in range(2):
        transport.config_read(0, 4)
        transport.reset()
    told = [call for call in here.asked.all() if call.operation != READ]
    # vdpa_sim has another operation for a reset, after which QEMU is its driver again.
    again = Call("set_status", (Status.ACKNOWLEDGE | Status.DRIVER,))
    assert [call for call in told if call.operation != "reset"] == [TOLD, again] * 2


@each
def test_driver_that_comes_back_is_served_after_each_reset(site: Start, name: str) -> None:
    driven = fresh(site(name))
    for _ in range(3):
        driven.transport.config_read(0, 4)
        driven.serves()
        driven.memory.give_back()


@pytest.mark.parametrize("name", ["sim nic", "vp nic"])
def test_qemu_stays_the_devices_driver_when_the_guests_resets_it(site: Start, name: str) -> None:
    """VIRTIO 1.3, 3.1.1: ACKNOWLEDGE and DRIVER are set before FEATURES_OK, and stay."""
    here = site(name)
    fresh(here).serves()
    statuses = [
        Status(call.values[0]) for call in here.asked.all() if call.operation == "set_status"
    ]
    with_features = [status for status in statuses if Status.FEATURES_OK in status]
    assert with_features
    assert all(Status.ACKNOWLEDGE | Status.DRIVER in status for status in with_features)


@each
def test_configuration_that_a_legacy_driver_reads_early_is_not_the_devices(
    site: Start, name: str
) -> None:
    """It would take the driver for a legacy one, and no more is known of it: QEMU answers."""
    here = site(name)
    driven = plugged(here.l2({**here.device, "addr": "0x5", "disable-legacy": "off"}), legacy=True)
    driven.transport.reset()
    here.asked.forget()
    read = driven.transport.config_read(0, 8)
    assert [call for call in here.asked.all() if call.operation == READ] == []
    assert features(here) == []
    expected = here.configuration()
    assert read[: len(expected)] == expected
