"""What a VFIO device says of its migration decides what QEMU does with it, and nothing else."""

from itertools import product

import pytest

from qap.lab.migration_layer import MigrationLayer, Rules
from qap.lab.mtty import Mtty
from qap.lab.mtty_machine import SLOT, MttyMachine
from qap.oracle.vfio_migration import Flag, forbidden, grant, stopped_early, together

pytest_plugins = ["qap.verify.kit.mtty_lab"]

# Bits that no kernel has given a meaning.
UNKNOWN = (0, 1 << 3, 1 << 63)
VALUES = [known | unknown for unknown, known in product(UNKNOWN, range(8))]
GRANTED = [flags for flags in VALUES if grant(flags).granted]
REFUSED = [flags for flags in VALUES if not grant(flags).granted]
STRANGE = [flags for flags in VALUES if grant(flags).unknown]
SAVERS = [flags for flags in range(8) if grant(flags).granted]
PAIRS = [*product(SAVERS, SAVERS), (1 << 63 | 0x5, 0x7), (0x3, 1 << 3 | 0x7)]


def rules(flags: int) -> Rules:
    return Rules(flags=flags)


@pytest.mark.parametrize("enable", ["on", "auto"])
@pytest.mark.parametrize("flags", GRANTED, ids=hex)
def test_device_with_defined_flags_can_migrate(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int, enable: str
) -> None:
    layer.rule(ports[0], rules(flags))
    assert machine.refuses(ports[0], enable=enable) == ""
    assert machine.blockers == []


@pytest.mark.parametrize("flags", REFUSED, ids=hex)
def test_device_that_must_migrate_and_can_not_is_refused(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    layer.rule(ports[0], rules(flags))
    assert machine.refuses(ports[0]) != ""
    assert machine.blockers == []


@pytest.mark.parametrize("flags", REFUSED, ids=hex)
def test_refusal_says_which_flag_is_missing(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    layer.rule(ports[0], rules(flags))
    said = machine.refuses(ports[0])
    assert grant(flags).missing in said
    assert f"{flags:#x}" in said


@pytest.mark.parametrize("flags", REFUSED, ids=hex)
def test_device_that_can_not_migrate_blocks_and_says_which_flag_is_missing(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    layer.rule(ports[0], rules(flags))
    assert machine.refuses(ports[0], enable="auto") == ""
    (said,) = machine.blockers
    assert grant(flags).missing in said
    assert f"{flags:#x}" in said


@pytest.mark.parametrize("flags", REFUSED, ids=hex)
def test_device_that_can_not_migrate_is_not_told_to(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    layer.rule(ports[0], rules(flags))
    machine.take(ports[0], enable="auto")
    machine.qmp.execute("stop")
    machine.qmp.execute("cont")
    assert layer.asked() == []
    machine.give_back(ports[0])
    assert machine.blockers == []


@pytest.mark.parametrize("flags", STRANGE, ids=hex)
def test_bits_without_a_meaning_are_traced(
    own_machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    layer.rule(ports[0], rules(flags))
    own_machine.take(ports[0], enable="auto")
    traced = [line for line in own_machine.process.tail().splitlines() if "unknown" in line]
    assert len(traced) == 1
    assert traced[0].startswith("vfio_migration_unknown_flags")
    assert f"{grant(flags).unknown:#x}" in traced[0]
    assert ports[0].name in traced[0]


def test_known_bits_are_not_traced_as_unknown(
    own_machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    for flags in range(8):
        layer.rule(ports[0], rules(flags))
        own_machine.take(ports[0], enable="auto")
        own_machine.give_back(ports[0])
    assert "unknown" not in own_machine.process.tail(1000)


@pytest.mark.parametrize("flags", GRANTED, ids=hex)
def test_only_states_that_the_flags_allow_are_entered(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], flags: int
) -> None:
    layer.rule(ports[0], rules(flags))
    machine.take(ports[0])
    machine.qmp.execute("stop")
    machine.qmp.execute("cont")
    assert machine.migrate() == "completed"
    machine.qmp.execute("cont")
    entered = {state for _, state in layer.asked()}
    assert forbidden(entered, flags) == set()
    # Nothing that it can do is left out, but for loading, which a source does not.
    assert len(entered) == len(grant(flags).states) - 1


@pytest.mark.parametrize("enable", ["on", "auto"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_several_devices_can_migrate_if_all_have_p2p(
    machine: MttyMachine,
    layer: MigrationLayer,
    ports: list[Mtty],
    first: int,
    second: int,
    enable: str,
) -> None:
    layer.rule(ports[0], rules(first))
    layer.rule(ports[1], rules(second))
    machine.take(ports[0], enable=enable)
    assert machine.blockers == []
    missing = together([first, second])
    said = machine.refuses(ports[1], SLOT + 1, enable)
    if missing and enable == "on":
        assert missing in said
    else:
        assert said == ""
        assert [missing in reason for reason in machine.blockers] == [True] * bool(missing)
        machine.give_back(ports[1])
    assert machine.blockers == []


@pytest.mark.parametrize("without", [0, 1, 2])
def test_one_of_three_without_p2p_blocks_until_it_goes(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], without: int
) -> None:
    three = ports[:3]
    for index, port in enumerate(three):
        layer.rule(port, rules(0x5 if index == without else 0x7))
    machine.take(*three, enable="auto")
    (said,) = machine.blockers
    assert together([0x5, 0x7, 0x7]) in said
    machine.give_back(three[without])
    assert machine.blockers == []


def test_device_that_can_not_migrate_blocks_beside_one_that_can(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty]
) -> None:
    layer.rule(ports[1], rules(Flag.P2P))
    machine.take(ports[0], ports[1], enable="auto")
    assert len(machine.blockers) == 1
    machine.give_back(ports[1])
    assert machine.blockers == []


@pytest.mark.parametrize("known", [0x3, 0x7], ids=hex)
@pytest.mark.parametrize("count", [2, 3])
def test_all_devices_are_quiet_before_one_stops(
    machine: MttyMachine, layer: MigrationLayer, ports: list[Mtty], count: int, known: int
) -> None:
    used = ports[:count]
    for index, port in enumerate(used):
        # With and without pre-copy in one VM.
        layer.rule(port, rules(0x3 if index else known))
    machine.take(*used)
    machine.qmp.execute("stop")
    machine.qmp.execute("cont")
    assert machine.migrate() == "completed"
    asked = layer.asked()
    assert stopped_early(asked, [port.name for port in used]) == []
    assert {name for name, _ in asked} == {port.name for port in used}
