"""Virtio devices that other options than -device make."""

from collections.abc import Iterator

from qap.explain.command import Command, Item
from qap.explain.machine_type import Machine
from qap.explain.opts import Opts

# What -nic and -net call virtio-net.
MODELS = frozenset(["virtio", "virtio-net", "virtio-net-pci", "virtio-net-ccw"])


def add_implied(command: Command, machine: Machine) -> None:
    """Put the devices that drives, network options and the machine make after those named."""
    command.devices += [*_disks(command, machine), *_nics(command, machine)]


def _disks(command: Command, machine: Machine) -> Iterator[Item]:
    default = machine.row.disk if machine.row else ""
    for item in command.drives:
        interface = item.opts.get("if")
        if interface == "virtio" or (not interface and default == "virtio-blk"):
            yield Item(item.option, Opts((("driver", "virtio-blk"), *_own(item))), item.said)


def _own(item: Item) -> list[tuple[str, str]]:
    return [("id", item.id)] if item.id else []


def _nics(command: Command, machine: Machine) -> Iterator[Item]:
    default = machine.row.nic if machine.row else ""
    for number, item in enumerate(command.nics):
        model = item.opts.get("model")
        if item.opts.get("type") == "none":
            continue
        if model in MODELS or (not model and default == "virtio-net"):
            name = item.opts.get("netdev") or item.id or f"nic{number}"
            if not item.opts.get("netdev"):
                command.netdevs[name] = item.opts
            pairs = (("driver", "virtio-net"), ("id", item.id), ("netdev", name))
            yield Item(item.option, Opts(pairs), item.said)
    if default == "virtio-net" and not (command.nodefaults or command.no_nic):
        yield Item("-machine", Opts((("driver", "virtio-net"),)), "the machine's own")
