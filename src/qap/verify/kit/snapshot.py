"""A VM's snapshots: its state, kept in a file of its own and loaded again later."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qap.fork.build import Build
from qap.machine.machine import Machine

NODE = "snapshots"
DONE_S = 30.0


@dataclass(frozen=True)
class Snapshots:
    """The file with a VM's state.

    Attributes:
        path: of the file.
    """

    path: Path

    @classmethod
    def made(cls, path: Path, build: Build) -> Self:
        """A new file, made by a build's qemu-img."""
        argv = [str(build.path("qemu-img")), "create", "-q", "-f", "qcow2", str(path), "1M"]
        subprocess.run(argv, check=True)
        return cls(path)

    @property
    def options(self) -> tuple[str, ...]:
        """What a machine's command line needs for it."""
        node = f"qcow2,node-name={NODE},file.driver=file,file.filename={self.path}"
        return ("-blockdev", f"driver={node}")

    def save(self, machine: Machine) -> None:
        """Keep the VM's state; raises AssertionError if QEMU can't."""
        self._job(machine, "snapshot-save")

    def load(self, machine: Machine) -> None:
        """Go back to the state that was kept; raises as `save` does."""
        self._job(machine, "snapshot-load")

    @staticmethod
    def _job(machine: Machine, command: str) -> None:
        qmp = machine.qmp
        qmp.execute(command, job_id=command, tag="kept", vmstate=NODE, devices=[NODE])
        concluded = {"id": command, "status": "concluded"}
        qmp.wait_event("JOB_STATUS_CHANGE", lambda data: data == concluded, DONE_S)
        (job,) = [job for job in qmp.execute("query-jobs") if job["id"] == command]
        qmp.execute("job-dismiss", id=command)
        assert "error" not in job, job["error"]
