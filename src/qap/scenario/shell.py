"""`qap shell`: a guest with its console on the terminal, and a device ready to be plugged."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.terminal import foreground
from qap.machine import catalog
from qap.machine.catalog import device_types
from qap.machine.chardev import COMMANDS
from qap.machine.device import Device, device_option
from qap.machine.guest import io_checks
from qap.machine.newer import completed
from qap.machine.spec import Spec
from qap.oracle import stock
from qap.oracle.fence import Outcome
from qap.scenario.behind import Behind, behind
from qap.scenario.confidential_kind import ConfidentialKind
from qap.scenario.repro import scenario as described
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import between_option, on_root, scenario_devices, scenario_spec

MODULES = ("virtiofs", "virtio_blk", "virtio_rng", "virtio_net")
USUAL_GUEST, USUAL_DEVICE = "x86_64", "vhost-user-fs"
NAME = "share"
# Free root ports, where a device needs one.
PORTS = 4


@dataclass(frozen=True)
class Shell:
    """A guest on the terminal.

    Args:
        build: which QEMU.
        scenario: guest, machine and device, which is hot-plugged by hand.
        share: the folder that virtiofsd shares; a scratch folder if None.
        ports: how many root ports are free; None for PORTS on a machine that needs any.
        options: more options of QEMU.
    Raises:
        UsageError: the machine has no such ports, the device shares no folder, there is no such
            folder, or the options are none.
    """

    build: Build
    scenario: Scenario
    share: Path | None = None
    ports: int | None = None
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        scenario = self.scenario
        if self.ports is not None and not scenario.machine_type.port:
            raise UsageError(f"{scenario.machine_type.called} needs no ports: leave out --ports")
        if self.share is not None and scenario.kind.program != "virtiofsd":
            raise UsageError(f"{scenario.driver} shares no folder: leave out --share")
        if self.share is not None and not self.share.is_dir():
            raise UsageError(f"--share {self.share}: no such folder")
        if self.options and not self.options[0].startswith("-"):
            raise UsageError(f"{self.options[0]}: options of QEMU come after -- and begin with -")

    def run(self) -> None:
        """Boot it, and wait until it or its user ends it; raises QapError if QEMU fails."""
        with ExitStack() as owned:
            folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
            host_data = io_checks.HostData(folder)
            host_data.prepare()
            (host_data.shared / "from-host").write_text("hello\n")
            one = None
            if self.scenario.kind.vhost_user is not None:
                one = owned.enter_context(
                    behind(self.scenario, self.build, host_data, NAME, self.share)
                )
            binary = self.build.path(f"qemu-system-{self.scenario.settings.qemu}")
            spec = completed(self._spec(host_data, one), binary)
            argv = [
                str(binary),
                *spec.argv(spec.bring()),
                *("-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off"),
                *("-serial", "mon:stdio"),
                *self.options,
            ]
            self._explain(folder, one, self.share or host_data.shared)
            foreground(argv, "QEMU")

    @property
    def _free(self) -> Sequence[Device]:
        return self.scenario.machine_type.free_ports(self.ports or PORTS)

    def _spec(self, host_data: io_checks.HostData, one: Behind | None) -> Spec:
        scenario, transport = self.scenario, self.scenario.transport
        socket, is_base = one.socket if one else None, self.build.is_base
        spec = scenario_spec(scenario, socket, host_data, is_base=is_base, ports=self._free)
        assert spec.boot is not None
        modules = tuple(dict.fromkeys((*MODULES, *spec.boot.modules)))
        boot = replace(spec.boot, modules=modules, append=f"{spec.boot.append} qap.shell")
        beside: list[Device] = [{"driver": device_types()["virtio-rng"].driver(transport)}]
        blockdevs = list(spec.blockdevs)
        if scenario.check.check != "disk":
            driver = device_types()["virtio-blk"].driver(transport)
            beside.insert(0, {"driver": driver, "drive": "disk"})
            blockdevs.append(f"driver=file,node-name=disk,filename={host_data.image}")
        modern: Device = {"iommu_platform": True, **on_root(scenario)}
        return replace(
            spec,
            chardevs=[f"socket,id={NAME},path={socket}"] if socket else [],
            blockdevs=blockdevs,
            devices=[*spec.devices, *({**device, **modern} for device in beside)],
            boot=boot,
        )

    def _driven(self) -> str:
        """What waits for the device's driver in the guest; mounts what is a virtiofs."""
        kind = self.scenario.kind
        waits = f"virtio-device {kind.device_id}"
        if self.scenario.check.check != "files":
            return waits
        return f"{waits} && mount -t virtiofs {kind.properties['tag']} /mnt"

    def plugging(self, socket: Path | None) -> list[str]:
        """What to type into the monitor to plug the device.

        Args:
            socket: of its back-end, if it has one.
        """
        plugged = scenario_devices(self.scenario, socket)
        added = [f"device_add {device_option(device)}" for device in plugged]
        between = between_option(self.scenario, socket) if socket else []
        if between:
            option, value = between
            added.insert(0, f"{COMMANDS[option].monitor} {value}")
        return added

    def _explain(self, folder: Path, one: Behind | None, share: Path) -> None:
        scenario = self.scenario
        kind, place = scenario.confidential, scenario.machine_type
        simulated = f"{kind.traits.title}, simulated: nothing is protected" if kind else ""
        iommu = "" if scenario.viommu == "none" else f", {scenario.viommu}"
        what = f"{scenario.guest} on {place.called}{iommu}, {simulated or 'not confidential'}"
        lines = [
            ("guest", what),
            ("keys", "Ctrl-A C: QEMU's monitor, and back; Ctrl-A X: the end"),
        ]
        lines += [
            ("" if number else "hot-plug", f"in the monitor: {command}")
            for number, command in enumerate(self.plugging(one.socket if one else None))
        ]
        if len(ports := self._free) > 1:
            lines.append(("", f"free for more: bus={ports[1]['id']} to bus={ports[-1]['id']}"))
        lines.append(("then", f"in the guest: {self._driven()}"))
        if scenario.check.check == "files":
            lines.append(("", f"/mnt shows {share}"))
        lines += [
            ("ask", f"in the monitor: info {'confidential-sim' if kind else 'qtree'}"),
            ("QMP", f"{folder}/qmp.sock"),
        ]
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        for name, text in lines:
            console.print(f"[bold]{name:>8}[/]  {escape(text)}")


def scenario_for(
    build: Build,
    *,
    machine: str | None = None,
    device: str | None = None,
    viommu: str = "none",
    confidential: ConfidentialKind | None = None,
    guest: str | None = None,
) -> Scenario:
    """The guest, machine and device that the command line describes.

    Args:
        machine: of configs/machines.toml; the guest's own if None.
        device: as -device calls it there; virtiofs if None.
        guest: of configs/guests.toml; the one that the machine or `confidential` needs if None.
    Raises:
        UsageError: a name is not known, or these don't go together.
    """
    if confidential and build.is_base:
        raise UsageError("the base has no x-confidential-sim: leave out --base")
    usual = confidential.traits.guest if confidential else USUAL_GUEST
    named = guest or (None if machine else usual)
    scenario = described(
        machine=machine or catalog.guest(named or usual).machine,
        device=device or USUAL_DEVICE,
        guest=named,
        plug="hot",
        viommu=viommu,
        confidential=confidential,
    )
    return _that_plugs(scenario, build)


def _that_plugs(scenario: Scenario, build: Build) -> Scenario:
    """The scenario with iommu_platform=off where the device would be refused with it, or unserved.

    Raises:
        UsageError: stock QEMU has no such device.
    """
    kind = scenario.kind
    if build.is_base and scenario.transport not in kind.transports:
        raise UsageError(f"stock QEMU has no {scenario.driver}: leave out --base")
    outcome = scenario.expected(is_base=build.is_base).outcome
    if build.is_base and outcome is Outcome.WORKS:
        outcome = stock.plug(
            transport=scenario.transport,
            requested=True,
            translated=scenario.translated,
            backend_can=scenario.can_translate,
        ).outcome
    if outcome is Outcome.WORKS or scenario.confidential:
        return scenario
    return scenario.model_copy(update={"iommu_platform": False})
