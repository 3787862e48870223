"""A soak sees what grows, what crashes and what is not as it should be, and ends when told to."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.cpu_time import children
from qap.host.paths import Project
from qap.machine.machine import Machine
from qap.machine.resources import Footprint
from qap.machine.spec import Spec
from qap.measure.soak import Order, carry_out
from qap.measure.soak_cycle import Soak, SoakStep, rotation

ENDS_S = 30.0
SCRIPT = """
from qap.fork.build import Build
from qap.measure.hostile.sweep import sweep
from qap.measure.soak import soak
if __name__ == "__main__":
    build = Build({profile!r}, {is_base})
    {call}
"""
CALLS = ("soak(build, 100_000, 2)", "sweep(build, 1, 100_000, 2)")


def step(device: str, *, refused: bool = False) -> SoakStep:
    """The first of the rotation that plugs this device, or that sees it refused."""
    matching = (s for s in rotation() if s.config.device == device and s.refused == refused)
    return next(matching)


@pytest.fixture
def machine() -> Iterator[Machine]:
    binary = Build.under_test().path("qemu-system-x86_64")
    port = {"driver": "pcie-root-port", "id": "port0", "chassis": 1, "slot": 1}
    with Machine(binary, Spec("q35", accel="qtest", memory=128, devices=[port])) as started:
        yield started


def test_a_cycle_of_each_kind_leaves_nothing_behind() -> None:
    steps = (step("virtio-rng"), step("vhost-user-rng"), step("virtio-blk", refused=True))
    result = Soak(Build.under_test(), 6, steps=steps, bounded=False).run()
    assert result["problems"] == {}
    assert (result["plugged"], result["refused"]) == (4, 2)
    assert [sample["cycle"] for sample in result["samples"]] == [0, 3, 6, 6]


def test_device_that_plugs_where_it_must_be_refused_is_a_problem() -> None:
    harmless = replace(step("virtio-blk", refused=True), spoilt=(("queue-size", 4),))
    result = Soak(Build.under_test(), 2, steps=(harmless,), bounded=False).run()
    assert list(result["problems"]) == [
        "virtio-blk (queue-size=4): plugged, but must be refused",
    ]


def test_device_that_is_refused_where_it_must_serve_is_a_problem() -> None:
    config = step("virtio-rng").config
    taken = replace(config, device="virtio-iommu", iommu_platform="off")
    result = Soak(Build.under_test(), 1, steps=(SoakStep(taken),), bounded=False).run()
    assert any("refused, but must plug" in problem for problem in result["problems"])


def test_crash_is_a_problem_with_qemus_last_words() -> None:
    def crash(cycle: int) -> None:
        if cycle:
            # pytest's own children, such as multiprocessing's, are not meant.
            named = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in children(os.getpid())}
            (qemu,) = [pid for pid, name in named.items() if name.startswith("qemu-system")]
            os.kill(qemu, signal.SIGSEGV)

    result = Soak(Build.under_test(), 9, crash, steps=(step("virtio-rng"),), bounded=False).run()
    assert result["problems"] == {"QEMU ended with status -11 after 1 cycles": 1}
    assert result["done"] == 1
    assert "command: " in result["detail"]


def test_processes_share_the_work() -> None:
    heard: dict[int, int] = {}
    steps = (step("virtio-rng"), step("virtio-blk", refused=True))
    orders = [Order(Build.under_test(), cycles, False, steps) for cycles in (1, 2)]
    first, second = carry_out(orders, heard.__setitem__)
    assert (first["plugged"], first["refused"], first["problems"]) == (1, 0, {})
    assert (second["plugged"], second["refused"], second["problems"]) == (1, 1, {})
    assert heard == {0: 1, 1: 2}


def test_footprint_names_what_is_there_and_was_not(machine: Machine) -> None:
    before = Footprint.of(machine)
    assert before.beyond(before) == []
    machine.plug({"driver": "virtio-rng-pci", "id": "dut", "bus": "port0"})
    machine.qmp.execute("chardev-add", id="null", backend={"type": "null", "data": {}})
    more = Footprint.of(machine).beyond(before)
    assert "1 more QOM /machine/peripheral child<virtio-rng-pci> (of 0)" in more
    assert "1 more QOM /chardevs child<chardev-null> (of 0)" in more
    assert any("more AddressSpace virtio-rng-pci" in line for line in more)


@pytest.mark.parametrize("call", CALLS)
def test_interrupted_soak_ends_with_its_qemus(tmp_path: Path, call: str) -> None:
    build = Build.under_test()
    script = tmp_path / "soaking.py"
    script.write_text(SCRIPT.format(profile=build.profile, is_base=build.is_base, call=call))
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=Project.here().root,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    try:
        while not (qemus := _qemus(process.pid)):
            assert process.poll() is None, (tmp_path / "said").read_text()
        os.killpg(process.pid, signal.SIGINT)
        process.wait(ENDS_S)
        still = [pid for pid in qemus if not _ends(pid)]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert still == []
    assert list(tmp_path.glob("qap-*")) == []
    words = (tmp_path / "said").read_text().splitlines()
    assert words[-1] == "KeyboardInterrupt"
    assert not any(line.startswith("Process ") for line in words), words


def _ends(pid: int) -> bool:
    """Whether a process ends soon; one that the kernel ends goes a moment after its parent."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], ENDS_S)[0])
    finally:
        os.close(pidfd)


def _qemus(pid: int) -> list[int]:
    """Emulators among the processes that descend from one."""
    qemus = []
    try:
        for process in children(pid):
            if "qemu-system" in Path(f"/proc/{process}/comm").read_text():
                qemus.append(process)
            qemus += _qemus(process)
    except (ProcessLookupError, FileNotFoundError):
        pass
    return qemus
