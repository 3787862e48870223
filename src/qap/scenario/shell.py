"""`qap shell`: a guest with its console on the terminal, and virtiofs ready to be plugged."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.terminal import foreground
from qap.machine import catalog
from qap.machine.catalog import MachineType, device_types, machine_types
from qap.machine.device import Device, device_option
from qap.machine.guest import io_checks
from qap.machine.guest.boot import Boot
from qap.machine.spec import Spec
from qap.scenario import confidential
from qap.scenario.confidential_kind import ConfidentialKind
from qap.vhost_user.programs import BackendProcess, virtiofsd

MODULES = ("virtiofs", "virtio_blk", "virtio_rng", "virtio_net")
TAG = "share"


@dataclass(frozen=True)
class Shell:
    """A guest on the terminal.

    Args:
        build: which QEMU.
        name: of a guest in configs/guests.toml; None for the one that `kind` needs, or x86_64.
        kind: None for a guest that is not confidential.
        share: the folder that virtiofsd shares; a scratch folder if None.
    Raises:
        UsageError: the guest or the build can't be of this kind, or there is no such folder.
    """

    build: Build
    name: str | None = None
    kind: ConfidentialKind | None = None
    share: Path | None = None

    def __post_init__(self) -> None:
        guest = self.guest
        if self.kind and guest.qemu != self.kind.traits.target:
            raise UsageError(f"{self.name} can't be {self.kind.traits.title}: leave out --guest")
        if self.kind and self.build.is_base:
            raise UsageError("the base has no x-confidential-sim: leave out --base")
        if self.share is not None and not self.share.is_dir():
            raise UsageError(f"--share {self.share}: no such folder")

    @property
    def guest(self) -> catalog.Guest:
        return catalog.guest(self.name or (self.kind.traits.guest if self.kind else "x86_64"))

    @property
    def place(self) -> MachineType:
        return machine_types()[self.guest.machine]

    def run(self) -> None:
        """Boot it, and wait until it or its user ends it; raises QapError if QEMU fails."""
        with ExitStack() as owned:
            folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="qap-")))
            host_data = io_checks.HostData(folder)
            host_data.prepare()
            (host_data.shared / "from-host").write_text("hello\n")
            share = self.share or host_data.shared
            service = owned.enter_context(virtiofsd(folder, share, self.guest.architecture, TAG))
            spec = self._spec(host_data, service)
            argv = [
                str(self.build.path(f"qemu-system-{self.guest.qemu}")),
                *spec.argv(spec.bring()),
                *("-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off"),
                *("-serial", "mon:stdio"),
            ]
            self._explain(folder, share)
            foreground(argv, "QEMU")

    def _spec(self, host_data: io_checks.HostData, fs: BackendProcess) -> Spec:
        place, guest = self.place, self.guest
        disk = {"driver": f"virtio-blk-{place.transport}", "drive": "disk"}
        source = {"driver": f"virtio-rng-{place.transport}"}
        modern: dict[str, object] = {"iommu_platform": True}
        if place.transport == "pci":
            modern["disable-legacy"] = "on"
        devices = [{**device, **modern} for device in (disk, source)]
        spec = Spec(
            machine=place.name,
            cpu=guest.cpu,
            memory=guest.memory,
            chardevs=[f"socket,id={TAG},path={fs.socket}"],
            blockdevs=[f"driver=file,node-name=disk,filename={host_data.image}"],
            devices=[*place.ports, *devices],
            boot=Boot(guest, MODULES, "qap.shell"),
        )
        return confidential.simulated(spec, self.kind) if self.kind else spec

    def _fs(self) -> Device:
        fs = {"driver": f"vhost-user-fs-{self.place.transport}", "id": "fs", **self.place.place}
        return {**fs, "chardev": TAG, "tag": TAG, "iommu_platform": True}

    def _mount(self) -> str:
        """What mounts virtiofs once a driver has taken the device."""
        device_id = device_types()["vhost-user-fs"].device_id
        return f"virtio-device {device_id} && mount -t virtiofs {TAG} /mnt"

    def _explain(self, folder: Path, share: Path) -> None:
        kind = self.kind
        simulated = f"{kind.traits.title}, simulated: nothing is protected" if kind else ""
        what = simulated or "not confidential"
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        for name, text in (
            ("guest", f"{self.guest.name}, {what}"),
            ("keys", "Ctrl-A C: QEMU's monitor, and back; Ctrl-A X: the end"),
            ("hot-plug", f"in the monitor: device_add {device_option(self._fs())}"),
            ("then", f"in the guest: {self._mount()}"),
            ("", f"/mnt shows {share}"),
            ("ask", f"in the monitor: info {'confidential-sim' if kind else 'qtree'}"),
            ("QMP", f"{folder}/qmp.sock"),
        ):
            console.print(f"[bold]{name:>8}[/]  {escape(text)}")
