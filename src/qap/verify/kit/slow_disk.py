"""Disks that take their time: by a throttle group, or so many seconds for each request.

Under qtest, a group's clock stands still. What is over its limit waits until QEMU drains the disk,
or the limit is lifted and the clock steps on.
"""

from qap.machine.machine import Machine

SIZE = 1 << 20


def throttle_group(limit: str = "bps-total=1", name: str = "slow") -> tuple[str, str]:
    """QEMU's options for a group of one limit, such as "iops-total=1"."""
    return "-object", f"throttle-group,id={name},x-{limit}"


def throttled(below: str, node: str = "disk0", group: str = "slow") -> str:
    """The block device that limits another one, which is a node's name."""
    return f"driver=throttle,node-name={node},throttle-group={group},file={below}"


def lift_limit(machine: Machine, limit: str = "bps-total", group: str = "slow") -> None:
    """Let what is asked from now on pass at once."""
    path = f"/objects/{group}"
    machine.qmp.execute("qom-set", path=path, property="limits", value={limit: 0})


def null_disk(node: str = "disk0", latency_s: float = 0.0) -> str:
    """The block device of a disk that keeps nothing.

    Args:
        latency_s: how many seconds each request takes.
    """
    return f"driver=null-co,node-name={node},size={SIZE},latency-ns={round(latency_s * 1e9)}"


def operations(machine: Machine, kind: str) -> int:
    """How many requests the machine's only disk has ended, of the kind "rd" or "wr"."""
    (row,) = machine.qmp.execute("query-blockstats")
    return int(row["stats"][f"{kind}_operations"])
