"""Cells of the matrix: which there are, how they are named and chosen, and what they share."""

import shlex
from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest

from qap.host.errors import UsageError
from qap.machine.catalog import device_types, machine_types
from qap.matrix.cell import Cell, cells, named, selected, shard
from qap.matrix.group import MOST_CONFIGS, groups
from qap.matrix.result import CellResult, Verdict
from qap.matrix.tables import STAYS, tables
from qap.oracle.fence import Outcome

from .matrix_cells import FS, a_cell

AXES = [
    "machine",
    "interface",
    "device",
    "backend",
    "viommu",
    "order",
    "iommu_platform",
    "plug",
    "driver",
    "later",
    "fence",
]


def test_matrix_is_large_and_no_name_stands_for_two_cells() -> None:
    names = [cell.name for cell in cells()]
    assert len(names) >= 3000
    assert len(set(names)) == len(names)


def test_every_cell_has_a_value_on_every_axis() -> None:
    for cell in cells():
        assert list(cell.axes) == AXES
        assert all(cell.axes.values())


def test_name_needs_no_quotes_in_a_shell() -> None:
    assert [cell.name for cell in cells() if shlex.quote(cell.name) != cell.name] == []


def test_cell_is_found_by_its_name() -> None:
    assert all(named(cell.name) is cell for cell in cells())


@pytest.mark.parametrize(
    "axis", ["machine", "viommu", "backend", "driver", "device", "later", "fence"]
)
def test_every_row_is_in_some_cell(axis: str) -> None:
    there = {cell.axes[axis] for cell in cells()}
    known = {"machine": set(machine_types()), "device": set(device_types())}
    assert there == (known.get(axis) or set(getattr(tables(), axis)))


def test_every_interface_of_every_machine_is_in_some_cell() -> None:
    there = {(cell.config.machine, cell.config.interface) for cell in cells()}
    assert there == {
        (name, interface) for name, row in machine_types().items() for interface in row.interface
    }


def test_unknown_cell_names_the_nearest() -> None:
    name = cells()[0].name
    with pytest.raises(UsageError, match=rf"^unknown cell '{name}s': did you mean {name}\b"):
        named(f"{name}s")


def names(*selectors: str) -> list[str]:
    return [cell.name for cell in selected(selectors)]


def where(**axes: set[str]) -> list[str]:
    """Names of the cells with one of these values on each of these axes."""
    return [
        cell.name
        for cell in cells()
        if all(cell.axes[axis] in values for axis, values in axes.items())
    ]


def test_no_selector_selects_every_cell() -> None:
    assert selected([]) == list(cells())


def test_selector_is_a_pattern_for_the_name() -> None:
    assert names("pc/*/hot/legacy") == where(machine={"pc"}, plug={"hot"}, driver={"legacy"})
    assert names(cells()[7].name) == [cells()[7].name]


def test_selector_is_a_pattern_for_axes() -> None:
    assert names("driver=legacy") == where(driver={"legacy"})
    assert names("machine=q35|pc,driver=legacy|accepts,plug=hot") == where(
        machine={"q35", "pc"}, driver={"legacy", "accepts"}, plug={"hot"}
    )
    users = {name for name in device_types() if name.startswith("vhost-user-")}
    assert names("device=vhost-user-*,backend=no-ap") == where(device=users, backend={"no-ap"})


def test_selectors_add_up_in_the_order_of_the_matrix() -> None:
    both = names("driver=unplugs", "machine=pc")
    chosen = {*names("driver=unplugs"), *names("machine=pc")}
    assert both == [cell.name for cell in cells() if cell.name in chosen]


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("colour=red", "unknown axis 'colour': "),
        ("machine=q35,drivers=accepts", "unknown axis 'drivers': did you mean driver"),
        ("machine=q35,accepts", "unknown axis 'accepts'"),
        ("machine=q34", "--select machine=q34: no cell matches"),
        ("q35/*/lukewarm", "--select q35/*/lukewarm: no cell matches"),
        ("", "--select : no cell matches"),
    ],
)
def test_selector_that_fits_nothing_is_one_clear_line(selector: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        selected(["driver=legacy", selector])
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_the_cells_cut_between_devices(count: int) -> None:
    parts = [shard(cells(), f"{number}/{count}") for number in range(1, count + 1)]
    assert Counter(cell for part in parts for cell in part) == Counter(cells())
    configs = [{cell.config for cell in part} for part in parts]
    assert sum(map(len, configs)) == len(set().union(*configs))
    smallest, *_, largest = sorted(map(len, configs)) * 2
    assert largest - smallest <= 1


def test_shard_of_a_selection_is_part_of_it() -> None:
    chosen = selected(["machine=pc,driver=legacy"])
    parts = [shard(chosen, "1/2"), shard(chosen, "2/2")]
    assert sorted(cell.name for part in parts for cell in part) == sorted(
        cell.name for cell in chosen
    )


@pytest.mark.parametrize("part", ["0/4", "5/4", "1/0", "1", "/", "a/b", "1/4/9", "-1/4", "1.0/4"])
def test_shard_that_is_no_part_is_one_clear_line(part: str) -> None:
    with pytest.raises(UsageError, match=rf"^--shard {part}: expected i/n .* such as 1/4$"):
        shard(cells(), part)


# What a machine and its vIOMMU make of iommu_platform=on: outcome, bit offered, translating.
ON = [
    ({}, ("works", True, False)),
    ({"viommu": "intel-off"}, ("works", True, True)),
    ({"viommu": "virtio-on"}, ("works", True, True)),
    ({"viommu": "intel-bypassed"}, ("works", True, False)),
    ({**FS, "viommu": "amd-off"}, ("works", True, True)),
    ({**FS, "backend": "no-ap"}, ("works", True, False)),
    ({**FS, "backend": "no-ap", "viommu": "intel-on"}, ("refused", False, False)),
    ({**FS, "backend": "no-ap", "viommu": "intel-bypassed"}, ("works", True, False)),
    ({**FS, "backend": "no-version-1"}, ("refused", False, False)),
    ({"interface": "transitional"}, ("refused", False, False)),
    ({"interface": "legacy"}, ("refused", False, False)),
    ({"machine": "microvm", "interface": "version-2"}, ("works", True, False)),
    ({"machine": "microvm", "interface": "version-1"}, ("refused", False, False)),
    ({"machine": "s390-ccw-virtio", "interface": "revision-2"}, ("works", True, False)),
    ({"machine": "s390-ccw-virtio", "interface": "revision-0"}, ("refused", False, False)),
]


@pytest.mark.parametrize(("axes", "expected"), ON)
def test_config_is_the_row_of_the_fence_table_that_its_axes_say(
    axes: dict[str, str], expected: tuple[str, bool, bool]
) -> None:
    plugged, service = a_cell(**axes).expected
    assert (plugged.outcome, plugged.offered, plugged.translating) == expected
    assert (service is None) == (plugged.outcome is Outcome.REFUSED)


@pytest.mark.parametrize("axes", [{}, FS, {"viommu": "intel-on"}, {"interface": "transitional"}])
def test_bit_that_is_not_requested_is_not_expected(axes: dict[str, str]) -> None:
    plugged, service = a_cell(**axes, iommu_platform="off").expected
    assert (plugged.outcome, plugged.offered) == (Outcome.WORKS, False)
    assert service is not None
    assert service.served


def test_firmware_of_s390x_drives_a_channel_device_at_revision_0() -> None:
    """And so a legacy driver may be served there, and nowhere else."""
    there = a_cell("legacy", machine="s390-ccw-virtio", interface="revision-2").expected[1]
    elsewhere = a_cell("legacy", machine="q35", interface="modern").expected[1]
    assert there is not None
    assert elsewhere is not None
    assert (there.served, elsewhere.served) == (None, False)


def test_machine_has_every_device_of_its_transport() -> None:
    for machine, row in machine_types().items():
        there = {cell.config.device for cell in cells() if cell.config.machine == machine}
        assert there == {
            name
            for name, device in device_types().items()
            if row.transport in device.transports
            and (not device.machines or machine in device.machines)
            and (not device.hotplug or any_cold(machine))
        }


def any_cold(machine: str) -> bool:
    return any(plan.machine == machine and plan.plug == "cold" for plan in tables().plan)


def test_device_is_where_it_can_be() -> None:
    for config in {cell.config for cell in cells()}:
        row = config.device_row
        assert not (config.plug == "hot" and row.hotplug)
        assert not (config.viommu != "none" and row.alone)
        assert not (config.order == "after" and config.viommu_row.device is None)
        assert row.legacy or config.interface_row.legacy in ("", "by-driver")
        real = config.backend_row.kind == "real"
        assert (config.backend_row.device if real else row.served_by) == (
            config.device if real else config.backend_row.kind
        )


@pytest.mark.parametrize("order", ["before", "after"])
def test_viommu_comes_before_and_after_a_cold_plugged_device(order: str) -> None:
    viommus = {cell.config.viommu for cell in cells() if cell.config.order == order}
    assert {"intel-off", "virtio-off", "amd-off"} <= viommus


def test_driver_meets_what_it_is_for() -> None:
    for cell in cells():
        driver, config = cell.driver_row, cell.config
        if driver.reads_config:
            assert config.device_row.config_layout
        if driver.packed and config.device_row.vhost_user:
            assert config.backend_row.ring_packed
    for name in (
        "accepts-packed",
        "reads-config-early",
        "reads-config-by-turns",
        "unplugs",
        "legacy",
    ):
        meets = {cell.config.device for cell in cells() if cell.driver == name}
        assert len(meets) > 3


def test_skipped_cell_says_why() -> None:
    skipped = [cell for cell in cells() if cell.config.skip]
    assert skipped
    for cell in skipped:
        result = CellResult(cell).as_dict()
        assert (result["verdict"], result["problems"]) == ("skip", [])
        assert result["skip"] == device_types()[cell.config.device].needs


def test_cell_of_a_kernels_device_is_skipped_only_without_the_lab() -> None:
    concerned = [cell for cell in cells() if cell.config.in_lab]
    assert {cell.config.device for cell in concerned} >= {"vhost-net", "vhost-scsi", "vhost-vsock"}
    for cell in concerned:
        assert CellResult(cell).verdict is Verdict.SKIP
        assert CellResult(cell, in_lab=True).as_dict()["skip"] == ""
        assert CellResult(cell, in_lab=True).verdict is not Verdict.SKIP


def test_no_cell_is_skipped_in_the_lab() -> None:
    assert [cell.name for cell in cells() if cell.config.skip and not cell.config.in_lab] == []


def test_kernels_device_is_behind_an_iommu_only_if_its_vhost_can_translate() -> None:
    """vhost-scsi of Linux does not offer ACCESS_PLATFORM (tests/lab/vhost asks it)."""
    outcomes = {
        device: named(f"q35/modern/{device}/kernel/intel-on/any/on/hot/accepts").expected[0].outcome
        for device in ("vhost-net", "vhost-vsock", "vhost-scsi")
    }
    assert outcomes == {
        "vhost-net": Outcome.WORKS,
        "vhost-vsock": Outcome.WORKS,
        "vhost-scsi": Outcome.REFUSED,
    }


def test_cells_in_the_lab_share_no_qemu_with_others() -> None:
    for group in groups(cells()):
        assert len({cell.config.in_lab for cell in group}) == 1


def test_one_driver_is_enough_where_there_is_nothing_to_drive() -> None:
    drivers = Counter(cell.config for cell in cells())
    for config, count in drivers.items():
        never = config.skip and not config.in_lab
        if never or config.plugging.outcome is Outcome.REFUSED:
            assert count == 1


def test_legacy_driver_meets_only_what_has_a_legacy_interface() -> None:
    for cell in cells():
        legacy = cell.config.interface_row.legacy
        if cell.driver_row.legacy:
            assert legacy
        elif not cell.config.skip:
            assert legacy != "only"


def test_device_without_version_1_meets_legacy_drivers_alone() -> None:
    """It has no other interface, and so it is plugged only where it has that."""
    met = {
        cell.driver
        for cell in cells()
        if cell.config.interface_row.legacy and not cell.config.backend_row.version_1
    }
    assert met
    assert all(tables().driver[name].legacy for name in met)


def test_groups_are_the_cells() -> None:
    grouped = Counter(cell for group in groups(cells()) for cell in group)
    assert grouped == Counter(cells())


def test_cold_plugged_device_has_a_qemu_of_its_own() -> None:
    for group in groups(cells()):
        configs = {cell.config for cell in group}
        assert len(configs) == 1 or {config.plug for config in configs} == {"hot"}
        assert len(configs) <= MOST_CONFIGS


def test_hot_plugged_devices_share_what_qemu_is_started_with() -> None:
    hot = [group for group in groups(cells()) if group[0].config.plug == "hot"]
    for group in hot:
        assert len({started_with(cell) for cell in group}) == 1
    # Each bin but the last of its kind is full.
    short = [group for group in hot if len(configs_of(group)) < MOST_CONFIGS]
    assert len(short) <= len({started_with(cell) for group in hot for cell in group})


def started_with(cell: Cell) -> tuple[object, ...]:
    config = cell.config
    moves, tells = config.destination is not None, tuple(config.tells.items())
    args = config.interface_row.args
    kind = (config.machine, config.machine_type)
    return *kind, config.viommu, args, moves, config.in_lab, tells


def configs_of(group: list[Cell]) -> list[object]:
    return [config for config, _ in groupby(group, lambda cell: cell.config)]


def test_name_says_what_becomes_of_a_device_where_anything_does() -> None:
    assert a_cell().name.endswith("/on/hot/accepts")
    assert a_cell(later="moves-on").name.endswith("/on/hot/accepts/moves-on")
    assert a_cell(fence="unfenced").name.endswith("/on/hot/accepts/unfenced")
    both = a_cell(later="moves-off", fence="version-9-2")
    assert both.name.endswith("/on/hot/accepts/moves-off/version-9-2")


@pytest.mark.parametrize("later", tables().later)
def test_every_vhost_user_device_that_can_meets_every_back_end_that_changes(later: str) -> None:
    row = tables().later[later]
    there = {cell.config.device for cell in cells() if cell.config.later == later}
    able = {
        name
        for name, device in device_types().items()
        if device.vhost_user and (device.vhost_user.reconnects or not row.returns)
    }
    if row.leaves or row.returns:
        assert there == able
    elif row.moves_to:
        assert not there & able


def test_what_happens_later_happens_only_to_what_plugs() -> None:
    for cell in cells():
        if cell.config.later != STAYS:
            assert cell.continuation
            assert cell.expected[0].outcome is Outcome.WORKS
            there = cell.config.destination
            assert there is None or there.plugging.outcome is Outcome.WORKS
        else:
            assert cell.continuation is None


def test_older_machine_type_is_the_one_of_its_machine() -> None:
    assert a_cell().config.machine_type == "q35"
    assert a_cell(fence="version-9-2").config.machine_type == "pc-q35-9.2"
    s390x = a_cell(machine="s390-ccw-virtio", interface="revision-2", fence="version-9-2")
    assert s390x.config.machine_type == "s390-ccw-virtio-9.2"
    there = a_cell(fence="version-9-2", later="moves-on").config.destination
    assert there
    assert there.machine_type == "pc-q35-9.2"


def test_destination_is_the_same_device_but_for_iommu_platform() -> None:
    config = a_cell(later="moves-off").config
    assert config.destination
    assert not config.destination.requested
    assert config.destination.destination is None
    assert replace(config.destination, iommu_platform="on", later="moves-off") == config
    assert a_cell().config.destination is None
