"""Failures in the matrix: each is reported in one line, and the other cells go on."""

import multiprocessing
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qap.fork.build import Build
from qap.fork.mutant import StandIn
from qap.host import process
from qap.host.errors import MissingError, QapError
from qap.host.wait import poll_until
from qap.machine import qmp
from qap.machine.catalog import device_types
from qap.matrix import pool, run, setup
from qap.matrix.cell import cells, named, selected
from qap.matrix.group import Group, groups
from qap.matrix.result import CellResult
from qap.matrix.testbed import Testbed
from qap.vhost_user import backends
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import ChainService, fill
from qap.vhost_user.misbehave import Misbehaviour, Mute

BUILD = Build.under_test()
RNG = "q35/modern/virtio-rng/in-qemu/none/any/on/hot/accepts"
COLD = "q35/modern/virtio-rng/in-qemu/none/before/on/cold/accepts"
BALLOON = "q35/modern/virtio-balloon/in-qemu/none/any/on/hot/accepts"
FS = "q35/modern/vhost-user-fs/ap/none"
Results = dict[str, dict[str, Any]]


def carried_out(*selectors: str) -> Results:
    """The results of cells by their names; groups run one after the other."""
    results: list[CellResult] = []
    for group in groups(selected(selectors)):
        Group(BUILD, group, results.append).run()
    return {result.cell.name: result.as_dict() for result in results}


def verdicts(results: Results) -> dict[str, str]:
    return {name: result["verdict"] for name, result in results.items()}


def problem(result: dict[str, Any]) -> str:
    """The text of the only problem, which has one line."""
    (entry,) = result["problems"]
    text: str = entry["text"]
    assert "\n" not in text
    return text


@pytest.fixture
def with_device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes the row of a device for a test; the cells don't change."""
    assert cells()

    def change(name: str, **fields: object) -> None:
        rows = device_types()
        changed = {**rows, name: rows[name].model_copy(update=fields)}
        monkeypatch.setattr(setup, "device_types", lambda: changed)

    return change


def test_device_that_qemu_lacks_is_one_line(with_device: Callable[..., None]) -> None:
    with_device("virtio-rng", names={"pci": "virtio-teapot-pci"})
    results = carried_out(RNG, COLD, BALLOON)
    assert results.pop(BALLOON)["verdict"] == "match"
    assert set(results) == {RNG, COLD}
    for result in results.values():
        assert result["verdict"] == "mismatch"
        assert problem(result).startswith("refused, but must plug: ")
        assert problem(result).endswith("'virtio-teapot-pci' is not a valid device model name")


def test_run_does_not_begin_where_qemu_lacks_a_device(with_device: Callable[..., None]) -> None:
    with_device("virtio-rng", names={"pci": "virtio-teapot-pci"})
    chosen = [named(RNG), named(BALLOON)]
    with pytest.raises(MissingError, match=r"has no device virtio-teapot-pci: "):
        run.matrix(chosen, BUILD, jobs=1, resume=False)


def processes_of(program: Path) -> list[str]:
    """Command lines that name the program."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes().decode(errors="replace"))
    return [line for line in lines if str(program) in line.split("\0")]


@pytest.fixture
def watched(tmp_path: Path) -> StandIn:
    """The build under test, with a path for the emulator that no other test uses."""
    program = tmp_path / "qemu-system-x86_64"
    program.symlink_to(BUILD.path(program.name))
    return StandIn(BUILD.profile, BUILD.is_base, tool=program.name, program=program)


MANY = selected(["machine=q35,interface=modern,device=virtio-rng,plug=hot"])


def test_interrupted_run_leaves_no_qemu_behind(watched: StandIn) -> None:
    def interrupt(result: CellResult) -> None:
        assert processes_of(watched.program)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.carry_out(watched, MANY, 2, interrupt)
    assert multiprocessing.active_children() == []
    assert processes_of(watched.program) == []


def test_run_whose_process_is_killed_says_where_and_leaves_no_qemu_behind(
    watched: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that is killed can't remove its folders.
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def kill(result: CellResult) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(QapError, match=r"^a process ended while it carried out q35/modern/"):
        pool.carry_out(watched, MANY, 2, kill)
    assert multiprocessing.active_children() == []
    # The kernel ends the processes that a killed process has started.
    poll_until(lambda: not processes_of(watched.program) or None, 10, lambda: "QEMU to end")


def test_qemu_that_does_not_start_is_one_line(with_device: Callable[..., None]) -> None:
    """A QEMU is started for all devices of a group; each of their cells reports the error."""
    with_device("virtio-rng", args=("-object", "teapot,id=t"))
    results = carried_out(RNG, BALLOON)
    assert list(verdicts(results).values()) == ["error", "error"]
    for result in results.values():
        assert "teapot" in problem(result)


@pytest.fixture
def back_end(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives back-ends a misbehaviour, or a socket that QEMU is not told of, for a test."""
    real = backends.backend

    def give(
        *,
        elsewhere: bool = False,
        misbehaviour: Sequence[Misbehaviour] = (),
        service: ChainService = fill,
    ) -> None:
        def made(
            path: Path,
            name: str,
            *,
            access_platform: bool,
            version_1: bool,
            ring_packed: bool,
            **rest: object,
        ) -> Backend:
            return real(
                path.with_name("elsewhere.sock") if elsewhere else path,
                name,
                access_platform=access_platform,
                version_1=version_1,
                ring_packed=ring_packed,
                service=service,
                misbehaviour=misbehaviour,
            )

        monkeypatch.setattr(backends, "backend", made)

    return give


@pytest.mark.parametrize("plug", ["any/on/hot", "before/on/cold"])
def test_back_end_that_is_not_there_is_one_line(back_end: Callable[..., None], plug: str) -> None:
    back_end(elsewhere=True)
    name = f"{FS}/{plug}/accepts"
    results = carried_out(name, BALLOON)
    assert results[BALLOON]["verdict"] == "match"
    assert results[name]["verdict"] in ("error", "mismatch")
    assert re.search(r"\.sock.*: No such file", problem(results[name]))


@pytest.mark.parametrize("plug", ["any/on/hot", "before/on/cold"])
def test_back_end_that_fails_fails_its_cell_alone(back_end: Callable[..., None], plug: str) -> None:
    def fails(queue: int, readable: bytes, room: int) -> bytes:
        raise ValueError("a fault of the device model")

    back_end(service=fails)
    name = f"{FS}/{plug}/accepts"
    results = carried_out(name, BALLOON)
    assert verdicts(results) == {name: "error", BALLOON: "match"}
    assert "a fault of the device model" in problem(results[name])


def test_what_qemu_has_printed_is_there_when_it_has_ended() -> None:
    wrapper = ("sh", "-c", 'echo said so >&2; exec "$@"', "sh")
    with Testbed(BUILD, [named(RNG).config], wrapper=wrapper) as testbed:
        assert testbed.said == ""
    assert testbed.said == "said so\n"


def test_back_end_that_never_answers_is_one_line(
    back_end: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU blocks while it waits: it is ended, and the next cell gets a new one."""
    monkeypatch.setattr(qmp, "COMMAND_S", 0.5)
    monkeypatch.setattr(process, "GRACE_S", 0.1)
    back_end(misbehaviour=[Mute()])
    name = f"{FS}/any/on/hot/accepts"
    results = carried_out(name, BALLOON)
    assert verdicts(results) == {name: "error", BALLOON: "match"}
    assert problem(results[name]) == "waited 0.5 s for QMP device_add"
    assert results[BALLOON]["fresh"]


def test_run_in_processes_writes_a_journal_and_goes_on_from_it(tmp_path: Path) -> None:
    chosen = selected([RNG, f"{FS}/any/on/hot/accepts", BALLOON])
    report = run.matrix(chosen, BUILD, jobs=2, resume=False, folder=tmp_path)
    assert report.ok
    assert [result.cell.name for result in report.results] == [cell.name for cell in chosen]
    path = tmp_path / f"{BUILD.name}.jsonl"
    head, *lines = path.read_text().splitlines()
    assert len(lines) == len(chosen)
    path.write_text(f"{head}\n{lines[0]}\n{lines[1][:100]}")
    again = run.matrix(chosen, BUILD, jobs=2, resume=True, folder=tmp_path)
    assert again.ok
    assert [result.cell.name for result in again.results] == [cell.name for cell in chosen]
