"""The fence table of docs and design, and that the oracle imports nothing of qap."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qap.oracle import fence as oracle
from qap.oracle.fence import Expectation, Legacy, Outcome, plug, plug_vdpa
from qap.oracle.service import Conduct, service

# requested, translated, backend can: outcome, bit offered, back-end gets bit and IOTLB
TABLE = [
    ((False, False, False), (Outcome.WORKS, False, False)),
    ((False, False, True), (Outcome.WORKS, False, False)),
    ((False, True, False), (Outcome.WORKS, False, False)),
    ((False, True, True), (Outcome.WORKS, False, False)),
    ((True, False, False), (Outcome.WORKS, True, False)),
    ((True, False, True), (Outcome.WORKS, True, False)),
    ((True, True, True), (Outcome.WORKS, True, True)),
    ((True, True, False), (Outcome.REFUSED, False, False)),
]


REFUSED = (Outcome.REFUSED, False, False)
UNASKED = (Outcome.WORKS, False, False)

# On a legacy interface a driver can't accept bit 33, and need not (virtio 1.3, 4.1.4.10).
# A device without VERSION_1 has no other interface (6.1).
# requested, legacy, VERSION_1: outcome, bit offered, back-end gets bit and IOTLB
INTERFACES: list[tuple[bool, Legacy, bool, tuple[Outcome, bool, bool]]] = [
    (False, "also", True, UNASKED),
    (False, "only", True, UNASKED),
    (True, "also", True, REFUSED),
    (True, "only", True, REFUSED),
    (False, "", False, REFUSED),
    (True, "", False, REFUSED),
    (False, "also", False, UNASKED),
    (False, "only", False, UNASKED),
    (True, "also", False, REFUSED),
    (True, "only", False, REFUSED),
]

# Devices that plug, as the fence table has them.
NOT_ASKED = plug(requested=False, translated=True, backend_can=True)
FLAT = plug(requested=True, translated=False, backend_can=True)
BEHIND = plug(requested=True, translated=True, backend_can=True)

# Drivers, named by what they do.
ACCEPTS = Conduct()
REFUSES = Conduct(access_platform=False)
INSISTS = replace(REFUSES, obeys=False)
ONE_WRITE = replace(INSISTS, features_ok="with-driver-ok")
SKIPS = replace(INSISTS, features_ok="never")
NOTHING = replace(SKIPS, version_1=False)
LEGACY = replace(NOTHING, legacy=True)
EARLY = Conduct(kicks="early")
FIRST = replace(NOTHING, kicks="first")

# Written from virtio 1.3. FEATURES_OK stays set unless the driver lacks a bit that the device
# requires (2.2.2, 3.1.1 steps 5 and 6); the legacy interface has no FEATURES_OK (3.1.2). If a
# driver did not accept ACCESS_PLATFORM, the device may not be able to use its addresses
# (6.1). Both answers are allowed to a modern driver without VERSION_1 (6.1), and to a
# notification before any status; but the device can't serve yet then (2.1.2, 3.1.2).
# FEATURES_OK stays, the buffer is used, the back-end gets bit and IOTLB; None: both allowed
SERVICE: list[tuple[Expectation, Conduct, tuple[bool | None, bool | None, bool]]] = [
    (NOT_ASKED, ACCEPTS, (True, True, False)),
    (FLAT, ACCEPTS, (True, True, False)),
    (BEHIND, ACCEPTS, (True, True, True)),
    (NOT_ASKED, REFUSES, (True, True, False)),
    (FLAT, REFUSES, (False, False, False)),
    (BEHIND, REFUSES, (False, False, False)),
    (NOT_ASKED, INSISTS, (True, True, False)),
    (FLAT, INSISTS, (False, False, False)),
    (BEHIND, INSISTS, (False, False, False)),
    (FLAT, ONE_WRITE, (None, False, False)),
    (BEHIND, ONE_WRITE, (None, False, False)),
    (FLAT, SKIPS, (None, False, False)),
    (BEHIND, SKIPS, (None, False, False)),
    (NOT_ASKED, NOTHING, (None, None, False)),
    (FLAT, NOTHING, (None, False, False)),
    (BEHIND, NOTHING, (None, False, False)),
    (NOT_ASKED, LEGACY, (None, True, False)),
    (FLAT, LEGACY, (None, False, False)),
    (BEHIND, LEGACY, (None, False, False)),
    (NOT_ASKED, EARLY, (True, True, False)),
    (FLAT, EARLY, (True, True, False)),
    (BEHIND, EARLY, (True, True, True)),
    (NOT_ASKED, FIRST, (None, None, False)),
    (FLAT, FIRST, (None, False, False)),
    (BEHIND, FIRST, (None, False, False)),
]


@pytest.mark.parametrize(
    ("offers", "lacks", "can"),
    [
        (True, (), True),
        (False, (), False),
        (True, ("REPLY_ACK",), False),
        (True, ("BACKEND_REQ",), False),
        (True, ("MQ", "CONFIG"), True),
    ],
)
def test_back_end_translates_with_the_bit_and_what_it_takes(
    offers: bool, lacks: tuple[str, ...], can: bool
) -> None:
    """vhost-user, IOMMU support: back-end channel and REPLY_ACK are required."""
    assert oracle.can_translate(offers=offers, lacks=lacks) == can


@pytest.mark.parametrize(("asked", "expected"), TABLE)
def test_fence(asked: tuple[bool, bool, bool], expected: tuple[Outcome, bool, bool]) -> None:
    requested, translated, backend_can = asked
    expectation = oracle.plug(requested=requested, translated=translated, backend_can=backend_can)
    assert (expectation.outcome, expectation.offered, expectation.translating) == expected
    assert expectation.why


@pytest.mark.parametrize("requested", [False, True])
def test_iommu_is_not_behind_itself(requested: bool) -> None:
    expected = plug(requested=requested, translated=False, backend_can=True, is_iommu=True)
    assert expected.outcome == (Outcome.REFUSED if requested else Outcome.WORKS)


def test_table_is_complete() -> None:
    assert len({asked for asked, _ in TABLE}) == 8


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("backend_can", [False, True])
@pytest.mark.parametrize(("requested", "legacy", "version_1", "expected"), INTERFACES)
def test_fence_by_interface(
    requested: bool,
    legacy: Legacy,
    version_1: bool,
    expected: tuple[Outcome, bool, bool],
    translated: bool,
    backend_can: bool,
) -> None:
    expectation = plug(
        requested=requested,
        translated=translated,
        backend_can=backend_can,
        legacy=legacy,
        version_1=version_1,
    )
    assert (expectation.outcome, expectation.offered, expectation.translating) == expected


REFUSED_AT_PLUG = plug(requested=True, translated=True, backend_can=False)


@pytest.mark.parametrize(
    ("plugged", "declines", "demands", "outcome"),
    [
        (FLAT, False, False, Outcome.WORKS),
        (FLAT, True, False, Outcome.UNSERVED),
        (FLAT, False, True, Outcome.WORKS),
        (FLAT, True, True, Outcome.UNSERVED),
        (BEHIND, True, False, Outcome.UNSERVED),
        (NOT_ASKED, False, False, Outcome.WORKS),
        (NOT_ASKED, True, False, Outcome.WORKS),
        (NOT_ASKED, False, True, Outcome.UNSERVED),
        (NOT_ASKED, True, True, Outcome.UNSERVED),
        (REFUSED_AT_PLUG, True, True, Outcome.REFUSED),
    ],
)
def test_guest_drives_a_device_if_both_agree_on_the_bit(
    plugged: Expectation, declines: bool, demands: bool, outcome: Outcome
) -> None:
    """6.1: a device may fail a driver without the bit, and a driver a device without it."""
    expected = oracle.driven(plugged, declines=declines, demands=demands)
    assert expected.outcome == outcome
    assert expected.offered == plugged.offered
    assert not (outcome == Outcome.UNSERVED and expected.translating)
    assert (expected == plugged) == (outcome == plugged.outcome)


@pytest.mark.parametrize(("plugged", "conduct", "expected"), SERVICE)
def test_service(
    plugged: Expectation, conduct: Conduct, expected: tuple[bool | None, bool | None, bool]
) -> None:
    answer = service(plugged, conduct)
    assert (answer.features_ok, answer.served, answer.translating) == expected
    assert answer.why
    assert answer.clause.startswith("virtio 1.3, ")


@pytest.mark.parametrize("plugged", [NOT_ASKED, FLAT, BEHIND])
@pytest.mark.parametrize("conduct", [ACCEPTS, REFUSES, INSISTS, ONE_WRITE, SKIPS, NOTHING, EARLY])
def test_exemption_is_for_legacy_drivers_alone(plugged: Expectation, conduct: Conduct) -> None:
    assert service(plugged, conduct, exempt=True) == service(plugged, conduct)


@pytest.mark.parametrize("plugged", [FLAT, BEHIND])
def test_exempt_legacy_driver_may_be_served_untranslated(plugged: Expectation) -> None:
    answer = service(plugged, LEGACY, exempt=True)
    assert (answer.features_ok, answer.served, answer.translating) == (None, None, False)


def test_legacy_driver_may_be_served_by_a_kernel_of_another_byte_order() -> None:
    answer = service(NOT_ASKED, LEGACY, foreign=True)
    assert (answer.features_ok, answer.served, answer.translating) == (None, None, False)


@pytest.mark.parametrize("plugged", [NOT_ASKED, FLAT, BEHIND])
@pytest.mark.parametrize("conduct", [ACCEPTS, REFUSES, INSISTS, ONE_WRITE, SKIPS, NOTHING, EARLY])
def test_byte_order_concerns_legacy_drivers_alone(plugged: Expectation, conduct: Conduct) -> None:
    """A modern driver's rings are little-endian everywhere (2.7.3)."""
    assert service(plugged, conduct, foreign=True) == service(plugged, conduct)


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("requested", [False, True])
def test_vdpa_device_is_told_of_memory_whatever_the_driver_accepts(
    requested: bool, translated: bool
) -> None:
    plugged = plug_vdpa(requested=requested, translated=translated, offers=True)
    answer = service(plugged, ACCEPTS if requested else REFUSES)
    assert (answer.features_ok, answer.served, answer.translating) == (True, True, True)
    assert service(plugged, INSISTS).served is not requested


def test_vdpa_device_behind_an_iommu_that_does_not_tell_is_not_served() -> None:
    plugged = plug_vdpa(requested=True, translated=True, offers=True)
    assert service(plugged, ACCEPTS, deaf=True).served is False
    assert service(plugged, REFUSES, deaf=True) == service(plugged, REFUSES)


def test_vdpa_device_need_not_serve_a_driver_that_never_said_what_it_accepts() -> None:
    plugged = plug_vdpa(requested=False, translated=False, offers=True)
    skips = replace(ACCEPTS, features_ok="never")
    assert service(plugged, skips).served is None
    assert service(NOT_ASKED, skips).served is True


fence = st.builds(
    plug,
    requested=st.booleans(),
    translated=st.booleans(),
    backend_can=st.booleans(),
    legacy=st.sampled_from(["", "also", "only"]),
    version_1=st.booleans(),
)
plugs = st.sampled_from([NOT_ASKED, FLAT, BEHIND])
most_drivers = st.builds(
    Conduct,
    legacy=st.booleans(),
    version_1=st.booleans(),
    access_platform=st.booleans(),
    features_ok=st.sampled_from(["alone", "never", "with-driver-ok"]),
    obeys=st.booleans(),
    kicks=st.sampled_from(["served", "early"]),
)
drivers = most_drivers | st.just(FIRST) | st.just(replace(FIRST, legacy=True))
checked = settings(database=None, deadline=None, derandomize=True, max_examples=300)


def accepted(conduct: Conduct) -> bool:
    """Whether it accepts bit 33 if offered; the legacy interface does not have it."""
    return conduct.access_platform and conduct.version_1 and not conduct.legacy


@checked
@given(fence)
def test_only_what_plugs_is_offered_and_only_what_is_offered_translates(
    expectation: Expectation,
) -> None:
    assert not expectation.translating or expectation.offered
    assert not expectation.offered or expectation.outcome is Outcome.WORKS
    assert expectation.why
    assert expectation.clause


@checked
@given(
    st.sampled_from([FLAT, BEHIND]),
    drivers.filter(lambda conduct: not accepted(conduct)),
    st.booleans(),
)
def test_driver_that_did_not_accept_what_was_offered_is_never_served(
    plugged: Expectation, conduct: Conduct, exempt: bool
) -> None:
    answer = service(plugged, conduct, exempt=exempt)
    assert answer.served is False or (exempt and conduct.legacy)
    assert answer.features_ok is not True
    assert not answer.translating


@checked
@given(plugs, drivers, st.booleans())
def test_back_end_translates_only_for_a_driver_that_is_served(
    plugged: Expectation, conduct: Conduct, exempt: bool
) -> None:
    answer = service(plugged, conduct, exempt=exempt)
    assert ("I/O virtual addresses" in answer.why) == answer.translating
    if answer.translating:
        assert plugged.translating
        assert plugged.offered
        assert accepted(conduct)
        assert answer.served


@checked
@given(drivers, st.booleans())
def test_driver_is_refused_nothing_that_nobody_asked_for(conduct: Conduct, exempt: bool) -> None:
    answer = service(NOT_ASKED, conduct, exempt=exempt)
    assert answer.features_ok is not False
    assert answer.served is not False
    assert not answer.translating


@checked
@given(plugs, drivers, st.booleans())
def test_features_ok_is_judged_where_a_driver_looks_at_it(
    plugged: Expectation, conduct: Conduct, exempt: bool
) -> None:
    answer = service(plugged, conduct, exempt=exempt)
    if conduct.legacy or conduct.features_ok != "alone":
        assert answer.features_ok is None
    if answer.features_ok is False:
        assert answer.served is False
    if answer.features_ok:
        assert answer.served


@checked
@given(plugs, drivers)
def test_obeying_changes_nothing_of_what_a_driver_must_get(
    plugged: Expectation, conduct: Conduct
) -> None:
    assert service(plugged, conduct) == service(plugged, replace(conduct, obeys=not conduct.obeys))


def test_oracle_imports_nothing_of_what_measures() -> None:
    assert oracle.__file__
    nodes = list(ast.walk(ast.parse(Path(oracle.__file__).read_text())))
    imported = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.append(node.module or "")
    assert imported
    assert not [name for name in imported if name.partition(".")[0] == "qap"]
