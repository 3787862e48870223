"""A disk of 1 MiB whose requests blkdebug holds until it is told to let them go on."""

import struct
from pathlib import Path

from qap.machine.machine import Machine

SECTOR = 512


def sector(number: int) -> bytes:
    """What NUMBERED has in this sector: it is filled with its number."""
    return struct.pack("<H", number) * (SECTOR // 2)


NUMBERED = b"".join(sector(number) for number in range(2048))


def held_disk(image: Path, number: int = 0) -> list[str]:
    """The block devices of a disk whose file this is; the last one is disk0, disk1 and so on."""
    return [
        f"driver=file,node-name=file{number},filename={image}",
        f"driver=blkdebug,node-name=debug{number},image=file{number}",
        f"driver=raw,node-name=disk{number},file=debug{number}",
    ]


def hold(machine: Machine, device: str, event: str = "read_aio") -> None:
    """Hold the disk's next request at one of blkdebug's events.

    Args:
        device: the ID of the device that has the disk.
    """
    _do(machine, device, f"break {event} held")


def go_on(machine: Machine, device: str) -> None:
    """Let what is held go on."""
    _do(machine, device, "resume held")


def _do(machine: Machine, device: str, command: str) -> None:
    machine.qmp.hmp(f'qemu-io -d {device} "{command}"')
