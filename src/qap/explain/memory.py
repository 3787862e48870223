"""Whether a vhost-user back-end can map the machine's memory."""

from collections.abc import Iterator

from qap.explain.command import Command, Item
from qap.explain.opts import boolean

# Memory backends by what share= is where it is not given.
SHARED_BY_DEFAULT = {"memory-backend-memfd": True, "memory-backend-shm": True}
# Devices whose memory a guest uses as its own; what an NVDIMM has may stay private.
MEMORY_DEVICES = ("pc-dimm", "virtio-mem", "hv-balloon")


def private_memory(command: Command, before: Item) -> str:
    """The memory that a back-end can't map where a device is plugged; "" if it can map all.

    Args:
        before: the device; memory that comes after it is refused itself.
    """
    names = list(_names(command, before))
    if not any(name for name, of in names if of == "machine"):
        return "the machine's own, without a memory backend"
    return next((name for name, _ in names if name and not _is_shared(command, name)), "")


def _names(command: Command, before: Item) -> Iterator[tuple[str, str]]:
    """Memory backends in use, and of what they are."""
    yield command.machine.get("memory-backend"), "machine"
    for node in command.numa:
        yield node.get("memdev"), "machine"
    for item in command.devices:
        if item is before:
            return
        if item.opts.get("driver").startswith(MEMORY_DEVICES):
            yield item.opts.get("memdev"), "device"


def _is_shared(command: Command, name: str) -> bool:
    found = command.objects.get(name)
    if found is None:
        # Another option may make it, and QEMU refuses a name that is not there.
        return True
    given = boolean(found.get("share"))
    return SHARED_BY_DEFAULT.get(found.get("qom-type"), False) if given is None else given
