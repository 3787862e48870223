"""configs/matrix.toml: what is wrong is named, and what is there can be carried out."""

import json
from pathlib import Path

import pytest

from qap.host.errors import UsageError
from qap.machine import catalog
from qap.machine.catalog import device_types, vhost_user_types
from qap.matrix import tables as model
from qap.matrix.tables import MatrixTables, tables

PLAN = {
    "machine": "q35",
    "interface": ["modern"],
    "viommu": ["none"],
    "plug": "hot",
    "device": ["virtio-rng"],
    "backend": ["in-qemu"],
    "driver": ["accepts"],
}


def read_with(monkeypatch: pytest.MonkeyPatch, folder: Path, extra: str) -> MatrixTables:
    """The tables of configs/matrix.toml with something after its end."""
    changed = folder / "matrix.toml"
    changed.write_text(f"{model.PATH.read_text()}\n{extra}\n")
    monkeypatch.setattr(model, "PATH", changed)
    all_tables: MatrixTables = tables.__wrapped__()
    return all_tables


def plan(**fields: object) -> str:
    """A plan, as TOML: what JSON calls a string or a list of strings, TOML does, too."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**PLAN, **fields}.items()]
    return "\n".join(["[[plan]]", *lines])


def test_plan_of_known_names_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(read_with(monkeypatch, tmp_path, plan()).plan) == len(tables().plan) + 1


@pytest.mark.parametrize("axis", ["machine", "interface", "viommu", "device", "backend", "driver"])
def test_plan_that_names_what_is_not_there_says_which(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, axis: str
) -> None:
    wrong = plan(**{axis: "nowhere" if axis == "machine" else ["nowhere"]})
    number = len(tables().plan) + 1
    with pytest.raises(UsageError, match=rf"matrix\.toml: plan {number} .*{axis} 'nowhere'"):
        read_with(monkeypatch, tmp_path, wrong)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("[backend.teapot]\ncolour = 'red'", "backend.teapot.kind: "),
        ("[driver.shy]\naccess_platform = false", "driver.shy.purpose: "),
        ("[driver.odd]\npurpose = 'odd'\nkicks = 'often'", "driver.odd.kicks: "),
        ("[viommu.smmu]\nprograms = 'smmu'", "viommu.smmu.programs: "),
        ("[backend.far]\nkind = 'cloud'", "backend.far.kind: "),
        (plan(plug="warm"), f"plan.{len(tables().plan)}.plug: "),
        (plan(iommu_platform=["auto"]), f"plan.{len(tables().plan)}.iommu_platform.0: "),
        (plan(order=["first"]), f"plan.{len(tables().plan)}.order.0: "),
    ],
)
def test_wrong_row_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str, named: str
) -> None:
    with pytest.raises(UsageError, match=r"matrix\.toml: ") as raised:
        read_with(monkeypatch, tmp_path, extra)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_probe_leaves_out_bytes_at_its_end() -> None:
    probe = catalog.Probe(queue=0, out="00 11 2233", drop=1)
    assert probe.data == bytes.fromhex("001122")


@pytest.mark.parametrize("name", device_types())
def test_device_can_be_proven_to_serve_or_says_what_it_needs(name: str) -> None:
    row = device_types()[name]
    assert bool(row.probe) != bool(row.needs) or row.in_lab
    if row.probe:
        assert row.probe.data or row.probe.room


@pytest.mark.parametrize("name", device_types())
def test_arguments_are_options_each_with_its_value(name: str) -> None:
    words = device_types()[name].args
    assert len(words) % 2 == 0
    assert all(word.startswith("-") for word in words[::2])


@pytest.mark.parametrize("name", [n for n, row in device_types().items() if row.vhost_user])
def test_vhost_user_device_has_a_back_end_in_python(name: str) -> None:
    assert name in vhost_user_types()


@pytest.mark.parametrize("name", tables().driver)
def test_driver_that_accepts_access_platform_is_modern(name: str) -> None:
    """Bit 33 is there for drivers that know of VERSION_1 (virtio 1.3, 6.1 and 6.4)."""
    row = tables().driver[name]
    assert row.purpose
    if row.access_platform:
        assert row.version_1
        assert not row.legacy
