"""Command lines that repeat a trial without qap, to paste into two terminals."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from qap.machine.catalog import Check
from qap.machine.chardev import COMMANDS
from qap.machine.device import device_option
from qap.machine.guest import balloon
from qap.machine.newer import completed
from qap.machine.spec import Spec
from qap.oracle.fence import Outcome
from qap.scenario.behind import Behind
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import between_option, chardev_option, scenario_devices

FOLDER = "/tmp/qap-repro"
MONITOR = "# in the monitor (Ctrl-A C, and again to go back):"
KEYS = "hexdump -C /dev/input/event*"
GUEST_CHECKS: Mapping[Check, str] = {
    "files": "mount -t virtiofs share /mnt && ls -l /mnt && sha256sum /mnt/*",
    "9p-files": "mount -t 9p -o trans=virtio,version=9p2000.L share /mnt && ls -l /mnt",
    "disk": "dd if=/dev/[vs]da bs=1M count=1 | sha256sum",
    "balloon": "awk '/^MemTotal/' /proc/meminfo",
    "random": "dd if=/dev/hwrng bs=64 count=1 | hexdump -C",
    "network": "ifconfig eth0 10.0.2.15 up && ping -c 1 10.0.2.2",
    "echo": "ifconfig eth0 10.0.2.15 up && ping -c 1 10.0.2.2",
    "port": "echo hello >/dev/vport*p1",
    "stream": "mount -t 9p -o trans=virtio,version=9p2000.L,ro tools /mnt; perl there has socket()",
    "key": KEYS,
    "motion": KEYS,
    "position": KEYS,
    "touch": KEYS,
    "display": "cat /dev/urandom >/dev/fb0",
    "sound": "head -c 4000 /dev/zero >/dev/dsp",
    "cipher": "grep -A 8 virtio_crypto /proc/crypto",
    "memory": "awk '/^MemTotal/' /proc/meminfo",
    "store": "dd if=/dev/urandom of=/dev/pmem0 bs=1M count=1 conv=fsync",
}
# What has a keyboard in Python press a key.
PRESS = "pkill -USR1 -f qap.vhost_user.serve"
# What to say in the monitor before.
MONITOR_CHECKS = {
    "key": "sendkey a",
    "motion": "mouse_move 5 0",
    "memory": "qom-set /machine/peripheral/dut requested-size 128M",
}


def commands(
    scenario: Scenario, binary: Path, spec: Spec, service: Behind | None, folder: Path
) -> list[str]:
    """Shell lines, with what to type into QEMU's monitor and the guest as comments.

    Args:
        binary: the emulator.
        spec: the machine as the trial starts it.
        service: the back-end, which gets a terminal of its own.
        folder: the trial's scratch folder, which becomes /tmp/qap-repro.
    """
    lines = [f"mkdir -p {FOLDER}/shared && echo hello >{FOLDER}/shared/from-host"]
    if scenario.check.check == "disk":
        lines.append(f"truncate -s 16M {FOLDER}/disk.img")
    if service is not None:
        lines += _started(service)
    if spec.boot:
        boot = dataclasses.replace(spec.boot, append=f"{spec.boot.append} qap.shell")
        spec = dataclasses.replace(spec, boot=boot)
    spec = completed(spec, binary)
    lines.append(_wrapped([str(binary), *spec.argv(spec.bring()), "-serial", "mon:stdio"]))
    if scenario.plug != "cold":
        lines.append(MONITOR)
        if service is not None:
            lines.append(f"#   chardev-add {chardev_option(scenario, service.socket)}")
            if between := between_option(scenario, service.socket):
                lines.append(f"#   {COMMANDS[between[0]].monitor} {between[1]}")
        added = scenario_devices(scenario, service.socket if service else None)
        lines += [f"#   device_add {device_option(one)}" for one in added]
    lines += _looks(scenario)
    if scenario.kill_backend and service is not None:
        lines += ["# kill the back-end, and start it again:", *_started(service)]
    return [line.replace(str(folder), FOLDER) for line in lines]


def migration(binary: Path, there: Spec, service: Behind | None, folder: Path) -> list[str]:
    """Lines to migrate the machine of `commands`, for a third terminal and the monitors.

    Args:
        there: the machine to migrate to.
        service: its back-end.
    """
    uri = f"unix:{folder / 'migration.sock'}"
    lines = ["# to migrate, in another terminal:"]
    lines += _started(service) if service else []
    if there.boot:
        boot = dataclasses.replace(there.boot, append=f"{there.boot.append} qap.shell")
        there = dataclasses.replace(there, boot=boot)
    lines.append(_wrapped([str(binary), *there.argv(there.bring()), "-serial", "mon:stdio"]))
    lines += ["# in its monitor:", f"#   migrate_incoming {uri}"]
    lines += ["# in the monitor of the first one:", f"#   migrate {uri}"]
    return [line.replace(str(folder), FOLDER) for line in lines]


def _started(service: Behind) -> list[str]:
    """Lines that start a back-end, and wait for it."""
    lines = [line if line.startswith("until") else f"{line} &" for line in service.by_hand]
    return [*lines, f"until [ -S {service.socket} ]; do sleep 0.1; done"]


def _looks(scenario: Scenario) -> list[str]:
    """What to type to see what the guest makes of the device."""
    wait = f"virtio-device {scenario.kind.device_id}"
    unserved = scenario.expected().outcome is Outcome.UNSERVED
    in_guest = wait if unserved else f"cat /sys/bus/virtio/devices/$({wait})/features"
    lines = ["# in the guest:", f"#   {in_guest}"]
    if scenario.check.check == "balloon":
        less = scenario.settings.memory - balloon.TAKEN // balloon.MIB
        lines += [MONITOR, f"#   balloon {less}"]
        lines += [] if unserved else ["# in the guest:"]
    check = scenario.check.check
    if unserved:
        return lines
    looks = f"#   {GUEST_CHECKS[check]}"
    if check == "key" and scenario.kind.vhost_user:
        return [*lines, looks, "# to press the key A, in another terminal:", f"#   {PRESS}"]
    if check in MONITOR_CHECKS:
        lines += [MONITOR, f"#   {MONITOR_CHECKS[check]}", "# in the guest:"]
    return [*lines, looks]


def _wrapped(argv: Sequence[str]) -> str:
    """A command line, an option with its values a line."""
    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("-"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines if line)
