"""Command lines that repeat a trial without qap, to paste into two terminals."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from qap.machine.device import device_option
from qap.machine.guest import balloon
from qap.machine.spec import Spec
from qap.oracle.fence import Outcome
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import scenario_device
from qap.vhost_user.programs import BackendProcess

FOLDER = "/tmp/qap-repro"
MONITOR = "# in the monitor (Ctrl-A C, and again to go back):"
GUEST_CHECKS = {
    "files": "mount -t virtiofs share /mnt && ls -l /mnt && sha256sum /mnt/*",
    "disk": "dd if=/dev/vda bs=1M count=1 | sha256sum",
    "balloon": "awk '/^MemTotal/' /proc/meminfo",
    "random": "dd if=/dev/hwrng bs=64 count=1 | hexdump -C",
}


def commands(
    scenario: Scenario, binary: Path, spec: Spec, service: BackendProcess | None, folder: Path
) -> list[str]:
    """Shell lines, with what to type into QEMU's monitor and the guest as comments.

    Args:
        binary: the emulator.
        spec: the machine as the trial starts it.
        service: the back-end, which gets a terminal of its own.
        folder: the trial's scratch folder, which becomes /tmp/qap-repro.
    """
    lines = [f"mkdir -p {FOLDER}/shared && echo hello >{FOLDER}/shared/from-host"]
    if scenario.kind.check == "disk":
        lines.append(f"truncate -s 16M {FOLDER}/disk.img")
    if service is not None:
        lines += [line if line.startswith("until") else f"{line} &" for line in service.by_hand]
        lines.append(f"until [ -S {service.socket} ]; do sleep 0.1; done")
    if spec.boot:
        boot = dataclasses.replace(spec.boot, append=f"{spec.boot.append} qap.shell")
        spec = dataclasses.replace(spec, boot=boot)
    lines.append(_wrapped([str(binary), *spec.argv(spec.bring()), "-serial", "mon:stdio"]))
    if scenario.plug != "cold":
        lines.append(MONITOR)
        if service is not None:
            socket = f"socket,id={service.socket.stem},path={service.socket}"
            lines.append(f"#   chardev-add {socket}")
        lines.append(f"#   device_add {device_option(scenario_device(scenario, service))}")
    lines += _looks(scenario)
    return [line.replace(str(folder), FOLDER) for line in lines]


def _looks(scenario: Scenario) -> list[str]:
    """What to type to see what the guest makes of the device."""
    wait = f"virtio-device {scenario.kind.device_id}"
    unserved = scenario.expected().outcome is Outcome.UNSERVED
    in_guest = wait if unserved else f"cat /sys/bus/virtio/devices/$({wait})/features"
    lines = ["# in the guest:", f"#   {in_guest}"]
    if scenario.kind.check == "balloon":
        less = scenario.settings.memory - balloon.TAKEN // balloon.MIB
        lines += [MONITOR, f"#   balloon {less}"]
        lines += [] if unserved else ["# in the guest:"]
    return lines if unserved else [*lines, f"#   {GUEST_CHECKS[scenario.kind.check]}"]


def _wrapped(argv: Sequence[str]) -> str:
    """A command line, an option with its values a line."""
    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("-"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines if line)
