"""What must become of errors of a device that VFIO assigns."""

import pytest

from qap.oracle.vfio_error import (
    ALL_ONES,
    Action,
    Fate,
    Place,
    Provider,
    Reading,
    Recovery,
    Setup,
    Severity,
    obstacle,
    outcome,
    plug,
    severity,
)

# PCIe 7.8.4.4, the default of Uncorrectable Error Severity: data link protocol (4) is fatal,
# completion timeout (14) is not.
SEVERITY = 0x0046_2030
FATAL, NON_FATAL = 1 << 4, 1 << 14
READY = Setup(forwards=True, listens=True)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (Reading(0, SEVERITY), Severity.NON_FATAL),
        (Reading(NON_FATAL, SEVERITY), Severity.NON_FATAL),
        (Reading(FATAL, SEVERITY), Severity.FATAL),
        (Reading(FATAL | NON_FATAL, SEVERITY), Severity.FATAL),
        (Reading(FATAL, 0), Severity.FATAL),
        (Reading(NON_FATAL, 0), Severity.NON_FATAL),
        (Reading(FATAL, SEVERITY, reset=True), Severity.FATAL),
        (Reading(0, SEVERITY, reset=True), Severity.UNCLEAR),
        (Reading(ALL_ONES, SEVERITY), Severity.UNCLEAR),
        (Reading(None, SEVERITY), Severity.UNCLEAR),
    ],
)
def test_configuration_space_tells_the_severity(reading: Reading, expected: Severity) -> None:
    assert severity(reading) is expected


@pytest.mark.parametrize("provider", Provider)
def test_an_error_that_is_not_fatal_is_forwarded_once(provider: Provider) -> None:
    assert outcome(Severity.NON_FATAL, provider, READY).action is Action.MESSAGE
    again = outcome(Severity.NON_FATAL, provider, READY, repeated=True)
    assert again.fate is Fate.IGNORED


@pytest.mark.parametrize("provider", Provider)
@pytest.mark.parametrize("found", [Severity.FATAL, Severity.UNCLEAR])
def test_any_other_stops_the_machine(found: Severity, provider: Provider) -> None:
    assert outcome(found, provider, READY).action is Action.STOP


@pytest.mark.parametrize("recovery", [Recovery.DETECTED, Recovery.RECOVERING])
def test_nothing_is_forwarded_while_the_host_recovers(recovery: Recovery) -> None:
    expected = outcome(Severity.NON_FATAL, Provider.KERNEL, READY, recovery=recovery)
    assert expected.fate is Fate.IGNORED


def test_a_device_that_is_lost_stops_the_machine() -> None:
    expected = outcome(Severity.NON_FATAL, Provider.KERNEL, READY, recovery=Recovery.LOST)
    assert expected.fate is Fate.STOPPED


@pytest.mark.parametrize("setup", [Setup(False, True), Setup(True, False)])
def test_a_guest_that_can_not_hear_of_an_error_is_stopped(setup: Setup) -> None:
    assert outcome(Severity.NON_FATAL, Provider.CONFIG_SPACE, setup).fate is Fate.STOPPED


@pytest.mark.parametrize("setup", [READY, Setup(False, False)])
def test_a_corrected_error_concerns_nobody(setup: Setup) -> None:
    assert outcome(Severity.CORRECTED, Provider.CONFIG_SPACE, setup).fate is Fate.IGNORED


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (Place(), ""),
        (Place(reported=False), "report"),
        (Place(device_aer=False), "AER"),
        (Place(port_aer=False), "root port"),
        (Place(alone=False), "multifunction"),
    ],
)
def test_only_a_place_that_works_is_used(place: Place, reason: str) -> None:
    assert reason in obstacle(place)
    assert plug("auto", place) == ("off" if reason else "on")
    assert plug("on", place) == ("refused" if reason else "on")
    assert plug("off", place) == "off"
