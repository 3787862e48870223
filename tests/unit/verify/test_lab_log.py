"""Each QEMU of a lab prints into a file of its own."""

from pathlib import Path

from qap.fork.build import Build
from qap.verify.kit.lab import Lab


def test_log_is_one_that_nobody_has(tmp_path: Path) -> None:
    lab = Lab(Build("lab"), tmp_path)
    names = []
    for _ in range(3):
        log = lab.log()
        log.touch()
        names.append(log.name)
    assert names == ["qemu.log", "qemu-2.log", "qemu-3.log"]
