"""Reconnection and migration in the oracle, and that it imports nothing else of qap."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.oracle import lifecycle
from qap.oracle.fence import Expectation, plug
from qap.oracle.lifecycle import PROPERTY, Continuation, Feature, arrival, comeback, departure
from qap.oracle.service import Conduct, service

# Devices that plug.
NOT_ASKED = plug(requested=False, translated=False, backend_can=True)
FLAT = plug(requested=True, translated=False, backend_can=True)
BEHIND = plug(requested=True, translated=True, backend_can=True)

# Drivers, named by what they do.
ACCEPTS = Conduct()
REFUSES = Conduct(access_platform=False)
INSISTS = replace(REFUSES, obeys=False)
SKIPS = replace(INSISTS, features_ok="never")
NOTHING = replace(SKIPS, version_1=False)
LEGACY = replace(NOTHING, legacy=True)
FIRST = replace(NOTHING, kicks="first")
WAITS = replace(ACCEPTS, starts=False)

BOTH: list[Feature] = ["VERSION_1", "ACCESS_PLATFORM"]
# A back-end that lacks a negotiated feature can't read the rings (virtio 1.3, 2.2.1; 6.1;
# vhost-user, IOMMU support: without the bit addresses are guest-physical).
# lost: told where the ring is, the next buffer is used, a buffer is used in the end
COMEBACK: list[tuple[Expectation, Conduct, list[Feature], tuple[bool | None, ...]]] = [
    (FLAT, ACCEPTS, [], (True, True, True)),
    (FLAT, ACCEPTS, ["ACCESS_PLATFORM"], (True, True, True)),
    (FLAT, ACCEPTS, ["VERSION_1"], (False, False, True)),
    (BEHIND, ACCEPTS, [], (True, True, True)),
    (BEHIND, ACCEPTS, ["ACCESS_PLATFORM"], (False, False, True)),
    (BEHIND, ACCEPTS, ["VERSION_1"], (False, False, True)),
    (NOT_ASKED, ACCEPTS, ["ACCESS_PLATFORM"], (True, True, True)),
    (NOT_ASKED, LEGACY, BOTH, (True, True, True)),
    (FLAT, INSISTS, [], (False, False, False)),
    (FLAT, INSISTS, BOTH, (False, False, False)),
    (NOT_ASKED, NOTHING, BOTH, (None, None, None)),
]

# Features are settled before DRIVER_OK and stay until a reset (virtio 1.3, 2.2.1, 3.1.1).
# the destination accepts it, its next buffer is used, a buffer is used after a reset
MOVES: list[tuple[Expectation, Expectation, Conduct, tuple[bool | None, ...]]] = [
    (FLAT, FLAT, ACCEPTS, (True, True, True)),
    (BEHIND, BEHIND, ACCEPTS, (True, True, True)),
    (NOT_ASKED, NOT_ASKED, ACCEPTS, (True, True, True)),
    (FLAT, NOT_ASKED, ACCEPTS, (False, None, None)),
    (NOT_ASKED, FLAT, ACCEPTS, (False, False, None)),
    (NOT_ASKED, FLAT, REFUSES, (False, False, None)),
    (NOT_ASKED, FLAT, LEGACY, (False, False, None)),
    (NOT_ASKED, BEHIND, ACCEPTS, (False, False, None)),
    (FLAT, FLAT, REFUSES, (True, False, True)),
    (FLAT, NOT_ASKED, REFUSES, (True, None, True)),
    (NOT_ASKED, FLAT, FIRST, (True, False, True)),
]


@pytest.mark.parametrize(("plugged", "conduct", "lost", "expected"), COMEBACK)
def test_comeback(
    plugged: Expectation, conduct: Conduct, lost: list[Feature], expected: tuple[bool | None, ...]
) -> None:
    continuation = comeback(conduct, service(plugged, conduct), lost)
    assert (continuation.started, continuation.served, continuation.recovers) == expected
    assert continuation.arrives is None
    assert continuation.why
    assert continuation.clause


@pytest.mark.parametrize(("here", "there", "conduct", "expected"), MOVES)
def test_arrival(
    here: Expectation, there: Expectation, conduct: Conduct, expected: tuple[bool | None, ...]
) -> None:
    continuation = arrival(here, there, conduct)
    assert (continuation.arrives, continuation.served, continuation.recovers) == expected
    assert continuation.started is None
    assert continuation.why
    assert continuation.clause.startswith("virtio 1.3, ")


@pytest.mark.parametrize("plugged", [NOT_ASKED, FLAT, BEHIND])
@pytest.mark.parametrize("conduct", [ACCEPTS, INSISTS, LEGACY])
def test_nothing_is_served_by_a_back_end_that_has_gone(
    plugged: Expectation, conduct: Conduct
) -> None:
    continuation = departure(service(plugged, conduct))
    assert continuation.served is False
    assert continuation.recovers is None


def test_refusal_of_a_running_driver_names_the_property() -> None:
    assert arrival(NOT_ASKED, FLAT, REFUSES).names == PROPERTY
    assert arrival(FLAT, FLAT, ACCEPTS).names == ""


def test_driver_that_has_not_started_is_served_where_it_has_moved_to() -> None:
    """It sets DRIVER_OK only at the destination."""
    assert arrival(FLAT, FLAT, WAITS).served is True
    assert service(FLAT, WAITS).served is None


@pytest.mark.parametrize("conduct", [REFUSES, INSISTS, SKIPS, LEGACY])
def test_any_driver_moves_in_where_nobody_insists(conduct: Conduct) -> None:
    continuation = arrival(NOT_ASKED, FLAT, conduct, destination_demands=False)
    assert (continuation.arrives, continuation.served, continuation.recovers) == (True, True, True)
    behind = arrival(NOT_ASKED, BEHIND, conduct, destination_demands=False)
    assert (behind.arrives, behind.served) == (True, None)


def test_driver_that_nobody_insisted_with_is_turned_away_where_somebody_does() -> None:
    """It may have been served at the source. If not, it can reset and start again."""
    continuation = arrival(FLAT, FLAT, INSISTS, source_demands=False)
    assert (continuation.arrives, continuation.served) == (None, False)


def test_firmware_of_the_platform_moves_anywhere() -> None:
    assert arrival(NOT_ASKED, FLAT, LEGACY, exempt=True).arrives is True
    assert arrival(NOT_ASKED, FLAT, REFUSES, exempt=True).arrives is False


plugs = st.sampled_from([NOT_ASKED, FLAT, BEHIND])
drivers = st.builds(
    Conduct,
    legacy=st.booleans(),
    version_1=st.booleans(),
    access_platform=st.booleans(),
    features_ok=st.sampled_from(["alone", "never", "with-driver-ok"]),
    obeys=st.booleans(),
    kicks=st.sampled_from(["served", "early"]),
)
losses = st.sets(st.sampled_from(BOTH))
checked = settings(database=None, deadline=None, derandomize=True, max_examples=300)


@checked
@given(plugs, drivers, losses)
def test_no_back_end_serves_a_driver_that_the_first_one_did_not(
    plugged: Expectation, conduct: Conduct, lost: set[Feature]
) -> None:
    before = service(plugged, conduct)
    continuation = comeback(conduct, before, lost)
    assert continuation.recovers == before.served
    assert not continuation.served or before.served
    assert continuation.started == continuation.served


@checked
@given(plugs, plugs, drivers, st.booleans())
def test_driver_that_did_not_accept_what_is_asked_for_is_never_served_there(
    here: Expectation, there: Expectation, conduct: Conduct, demanded: bool
) -> None:
    continuation: Continuation = arrival(here, there, conduct, source_demands=demanded)
    if there.offered and not conduct.accepts(here):
        assert continuation.served is False
        assert continuation.arrives is False or continuation.recovers is True


def test_sequel_imports_nothing_of_what_measures() -> None:
    assert lifecycle.__file__
    nodes = list(ast.walk(ast.parse(Path(lifecycle.__file__).read_text())))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    ours = [name for name in modules if name.partition(".")[0] == "qap"]
    assert ours
    assert all(name.startswith("qap.oracle.") for name in ours)
