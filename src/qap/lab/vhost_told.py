"""What QEMUs in L1 tell its kernel's vhost, seen from the kernel's side."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from qap.host.errors import QapError
from qap.lab.l1 import L1, PERL

TRACING = "/sys/kernel/tracing"
# Of the probes; they have a buffer of their own.
GROUP = "qap_vhost"
BUFFER = f"{TRACING}/instances/{GROUP}"
# The functions behind ioctl(2), by the name of the device in /dev.
IOCTL: Mapping[str, str] = {
    "vhost-net": "vhost_net:vhost_net_ioctl",
    "vhost-vsock": "vhost_vsock:vhost_vsock_dev_ioctl",
    "vhost-scsi": "vhost_scsi:vhost_scsi_ioctl",
    "vhost-vdpa": "vhost_vdpa:vhost_vdpa_unlocked_ioctl",
}
# The one behind write(2), which takes IOTLB messages.
WRITE = "vhost:vhost_chr_write_iter"
# <linux/vhost.h>.
GET_FEATURES = 0x8008AF00
SET_FEATURES = 0x4008AF00
SET_VRING_ADDR = 0x4028AF11
EVENT = re.compile(r": (\w+): \(.*?\)(?: cmd=(\w+) arg=(\S+))?$", re.MULTILINE)
FAULT = "(fault)"
ASK = (
    'open F, "+<", $ARGV[0] or die "$!\\n"; $word = pack "Q", 0; '
    f'ioctl F, {GET_FEATURES}, $word or die "$!\\n"; print unpack "Q", $word'
)


@dataclass(frozen=True)
class Told:
    """What the kernel was told, by whichever QEMU.

    Attributes:
        features: the last feature word; None if there was none.
        ring: it was told where a ring is.
        iotlb: how many IOTLB messages it got.
    """

    features: int | None
    ring: bool
    iotlb: int


@dataclass(frozen=True)
class VhostTold:
    """Listens to what L1's kernel is told; see `vhost_told`."""

    l1: L1
    _offered: dict[str, int] = field(default_factory=dict)

    def offered(self, node: str) -> int:
        """The feature word that a vhost device offers, such as "/dev/vhost-net".

        It is asked once: a vDPA device can be opened only while no QEMU has it.

        Raises:
            GuestCommandError: it can't be opened.
        """
        if node not in self._offered:
            self._offered[node] = int(self.l1.check(f"{PERL} -e '{ASK}' {node}"))
        return self._offered[node]

    def take(self) -> Told:
        """What it was told since the last call.

        Raises:
            QapError: it could not see what an ioctl's argument points at.
        """
        said, _ = self.l1.agent.ask(f"read {BUFFER}/trace", f"clear {BUFFER}/trace")
        events = [event.groups() for event in EVENT.finditer(said)]
        if any(arg == FAULT for _, _, arg in events):
            raise QapError("L1's probes could not read the argument of an ioctl")
        calls = [(int(cmd, 0), int(arg, 0)) for _, cmd, arg in events if cmd]
        features = [arg for cmd, arg in calls if cmd == SET_FEATURES]
        return Told(
            features[-1] if features else None,
            any(cmd == SET_VRING_ADDR for cmd, _ in calls),
            sum(not cmd for _, cmd, _ in events),
        )


@contextmanager
def vhost_told(l1: L1) -> Iterator[VhostTold]:
    """Probe the kernel's functions until the context ends.

    Raises:
        GuestCommandError: L1 is probed in this way already.
    """
    probes = {device.replace("-", "_"): function for device, function in IOCTL.items()}
    asked = [
        f"echo 'p:{GROUP}/{name} {function} cmd=%si:x32 arg=+u0(%dx):x64' >>kprobe_events"
        for name, function in probes.items()
    ]
    wanted = f"cmd == {SET_FEATURES} || cmd == {SET_VRING_ADDR}"
    filters = [f"echo '{wanted}' >{BUFFER}/events/{GROUP}/{name}/filter" for name in probes]
    enable = f"{BUFFER}/events/{GROUP}/enable"
    l1.check(
        f"set -e; test -e {TRACING}/trace || mount -t tracefs tracing {TRACING}; cd {TRACING}; "
        f"{'; '.join(asked)}; echo 'p:{GROUP}/iotlb {WRITE}' >>kprobe_events; "
        f"mkdir {BUFFER}; {'; '.join(filters)}; echo 1 >{enable}"
    )
    try:
        yield VhostTold(l1)
    finally:
        gone = [f"echo -:{GROUP}/{name} >>{TRACING}/kprobe_events" for name in [*probes, "iotlb"]]
        l1.check(f"set -e; echo 0 >{enable}; rmdir {BUFFER}; {'; '.join(gone)}")
