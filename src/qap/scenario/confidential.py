"""Machines with a simulated confidential guest (x-confidential-sim)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qap.host.errors import QapError
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.scenario.confidential_kind import ConfidentialKind
from qap.vhost_user.backend import Backend
from qap.vhost_user.memory.access import Touched
from qap.vhost_user.protocol import FrontendRequest

ID = "cg0"
VIOLATION = "CONFIDENTIAL_SIM_VIOLATION"
UNPROTECTED = "not a protected guest, for the base has no x-confidential-sim"


class NotConfidential(QapError):
    """A guest is not protected, or a device accessed its private memory."""


@dataclass(frozen=True)
class Shared:
    """What a guest shares (x-query-confidential-sim).

    Attributes:
        protecting: whether it asked for protection since the last reset.
        shared, private: how many pages of 4 KiB.
        ranges: of shared guest-physical addresses, the first and one past the last.
        violations: how often a device touched private memory, reads and writes, by its ID,
            or by its QOM path if it has none.
    """

    protecting: bool
    shared: int
    private: int
    ranges: Sequence[range]
    violations: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, machine: Machine) -> "Shared":
        """Ask QEMU; raises QmpRefused where the machine has no simulation."""
        answer: dict[str, Any] = machine.qmp.execute("x-query-confidential-sim")
        return cls(
            answer["protecting"],
            answer["shared-pages"],
            answer["private-pages"],
            [range(span["start"], span["start"] + span["size"]) for span in answer["shared"]],
            {
                violation.get("device", violation["qom-path"]): (
                    violation["reads"],
                    violation["writes"],
                )
                for violation in answer["violations"]
            },
        )

    def holds(self, address: int, size: int) -> bool:
        """Whether all of these guest-physical addresses are shared."""
        last = address + size - 1
        return not self.protecting or any(
            address in span and last in span for span in _merged(self.ranges)
        )


def _merged(ranges: Sequence[range]) -> list[range]:
    merged: list[range] = []
    for span in ranges:
        if merged and merged[-1].stop == span.start:
            merged[-1] = range(merged[-1].start, span.stop)
        else:
            merged.append(span)
    return merged


def private_touched(backend: Backend, shared: Shared) -> list[Touched]:
    """What a back-end touched that isn't shared, in guest physical addresses.

    Args:
        shared: what the guest shared at that time. Accesses by IOVA are left out.
    """
    regions = _regions(backend)
    physical = [_physical(access, regions) for access in backend.touched if access.space != "iova"]
    return [access for access in physical if not shared.holds(access.address, access.size)]


def _regions(backend: Backend) -> list[tuple[int, ...]]:
    """Guest address, size and user address of the memory that the back-end was last given."""
    regions: list[tuple[int, ...]] = []
    for message in backend.received:
        if message.request == FrontendRequest.SET_MEM_TABLE:
            flat = message.words[2:]
            regions = [flat[at : at + 3] for at in range(0, len(flat), 4)]
        elif message.request == FrontendRequest.ADD_MEM_REG:
            regions.append(message.words[1:4])
        elif message.request == FrontendRequest.REM_MEM_REG:
            regions = [region for region in regions if region != message.words[1:4]]
    return regions


def _physical(touched: Touched, regions: Sequence[tuple[int, ...]]) -> Touched:
    if touched.space == "gpa":
        return touched
    for guest, size, user in regions:
        if user <= touched.address < user + size:
            return touched._replace(space="gpa", address=touched.address - user + guest)
    raise QapError(f"no memory of the back-end has {touched}")


def simulated(
    spec: Spec, kind: ConfidentialKind, on_violation: str = "error", options: str = ""
) -> Spec:
    """The same machine with x-confidential-sim, and a kernel that boots so.

    Args:
        on_violation: "error" or "report".
        options: further properties, each with a comma before it.
    """
    simulation = f"x-confidential-sim,id={ID},mode={kind.traits.mode},on-violation={on_violation}"
    added = ["-object", simulation + options]
    machine = f"{spec.machine},confidential-guest-support={ID}"
    boot = spec.boot
    if boot is not None:
        boot = replace(boot, packaged=boot.packaged or kind.traits.packaged)
    return replace(spec, machine=machine, extra=[*added, *spec.extra], boot=boot)


def bounced(spec: Spec) -> Spec:
    """The same machine for a QEMU without x-confidential-sim; its guest bounces I/O, too.

    Raises:
        ValueError: it has no guest.
    """
    if spec.boot is None:
        raise ValueError("a machine without a guest")
    append = f"{spec.boot.append} swiotlb=force"
    return replace(spec, boot=replace(spec.boot, append=append))


def prove(machine: Machine, kind: ConfidentialKind) -> list[str]:
    """Check that the guest is protected and that no device accessed private memory.

    Returns:
        What was seen, in words.
    Raises:
        NotConfidential: the check failed.
    """
    if machine.console.run(kind.traits.protected).status:
        raise NotConfidential("the guest does not take itself for a protected one")
    if machine.console.run(kind.traits.bounces).status:
        raise NotConfidential("the guest does not bounce its I/O (SWIOTLB)")
    seen = Shared.of(machine)
    if not seen.protecting or not seen.private:
        raise NotConfidential(f"no memory is private: {seen}")
    if seen.violations:
        raise NotConfidential(f"devices met private memory: {seen.violations}")
    return [f"protected guest, {seen.shared} pages shared, {seen.private} private, no violation"]
