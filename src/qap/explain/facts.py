"""What decides what becomes of a device, and what follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from qap.explain.backend import Backend, Kind
from qap.explain.device_types import VirtioType
from qap.explain.interface import LOW_REVISION, NEITHER, NO_MSIX, Interface
from qap.explain.knowledge import knowledge
from qap.explain.machine_type import Machine
from qap.machine.catalog import DeviceType
from qap.oracle import fence, remedy, stock
from qap.oracle.fence import Expectation, Legacy, Outcome
from qap.oracle.stock import Conclusion

REMEDY = {
    NEITHER: "disable-modern=off",
    LOW_REVISION: "max_revision=1 or higher",
    NO_MSIX: "vectors=2, or a newer machine type",
}


@dataclass(frozen=True)
class Verdict:
    """What becomes of a device, if its bus and back-end are as assumed.

    Attributes:
        assumed: what had to be assumed; "" if nothing.
        can: its back-end can translate, as known or assumed.
        plugged: the row of the fence table for its plug on the fork.
        driven: that row with Linux as its driver in the guest.
        on_stock: how stock QEMU ends its plug.
        driven_on_stock: what becomes of it in a guest there.
        remedies: what helps, the best first; none where all is well.
    """

    assumed: str
    can: bool
    plugged: Expectation
    driven: Expectation
    on_stock: Conclusion
    driven_on_stock: Outcome
    remedies: Sequence[str] = ()

    @property
    def same(self) -> bool:
        """Whether all is well on stock QEMU and on the fork."""
        return (
            self.driven.outcome is Outcome.WORKS
            and self.driven_on_stock is Outcome.WORKS
            and not self.on_stock.fault
        )


@dataclass(frozen=True)
class Facts:
    """What decides, but for what may not be known."""

    kind: VirtioType
    family: DeviceType
    interface: Interface
    requested: bool
    backend: Backend
    lenient: bool
    machine: Machine
    private: str
    iommus: bool

    @property
    def _fixed(self) -> bool:
        """Whether the host bridge translates by itself."""
        return bool(self.machine.row and self.machine.row.translates)

    @property
    def _unchecked(self) -> bool:
        """Whether a simulated confidential guest has a vIOMMU, so that nothing plugs."""
        return self.machine.simulated and self.iommus and not self._fixed

    def verdicts(self, translated: bool | None) -> list[Verdict]:
        """One for each case that may be."""
        found: list[Verdict] = []
        for bus in [translated] if translated is not None else [False, True]:
            for can in [self.backend.can] if self.backend.can is not None else [False, True]:
                assumed = []
                if translated is None:
                    assumed.append("its bus translates" if bus else "its bus does not translate")
                if self.backend.can is None:
                    assumed.append(
                        "its back-end offers ACCESS_PLATFORM"
                        if can
                        else "its back-end does not offer ACCESS_PLATFORM"
                    )
                found.append(self._verdict(", and ".join(assumed), bus, can))
        first = found[0]
        if all(_alike(first, other) for other in found):
            return [self._verdict("", bool(translated), bool(self.backend.can))]
        return found

    def _verdict(self, assumed: str, translated: bool, can: bool) -> Verdict:
        plugged = self._plug(translated, can)
        on_stock = self._stock(translated, can)
        demands, declines = bool(self.machine.confidential), self.family.declined
        driven = fence.driven(plugged, declines=declines, demands=demands)
        if self.private and on_stock.outcome is Outcome.WORKS:
            on_stock = stock.unreachable()
        useless = on_stock.fault in (stock.UNREACHABLE, stock.NO_DRIVER)
        there = Outcome.UNSERVED if useless else on_stock.outcome
        if there is Outcome.WORKS and (
            (demands and not self.requested) or (declines and self.requested)
        ):
            there = Outcome.UNSERVED
        return Verdict(
            assumed,
            can,
            plugged,
            driven,
            on_stock,
            there,
            self._remedies(translated, plugged, driven, on_stock),
        )

    def _plug(self, translated: bool, can: bool) -> Expectation:
        if self._unchecked:
            return fence.simulated_behind_viommu()
        if self.interface.error:
            return Expectation(
                Outcome.REFUSED, False, False, self.interface.error, "virtio 1.3, 2.2.3"
            )
        is_legacy = self.requested and bool(self.interface.legacy)
        if self.backend.kind is Kind.VDPA and not is_legacy:
            return fence.plug_vdpa(requested=self.requested, translated=translated, offers=can)
        return fence.plug(
            requested=self.requested,
            translated=translated,
            backend_can=can,
            legacy=self._legacy(self.interface.legacy),
            version_1=self._version_1(presumed=self.machine.lenient),
            is_iommu=self.family.iommu and translated,
            lenient=self.lenient and self.kind.transport != "pci",
            reachable=not self.private,
        )

    def _stock(self, translated: bool, can: bool) -> Conclusion:
        if self.machine.simulated:
            return Conclusion(Outcome.REFUSED, stock.NO_SIMULATION)
        if self.interface.error:
            return Conclusion(Outcome.REFUSED, self.interface.error)
        if self.backend.kind is Kind.VDPA:
            return stock.plug_vdpa(
                transport=self.kind.transport, requested=self.requested, offers=can
            )
        return stock.plug(
            transport=self.kind.transport,
            requested=self.requested,
            translated=translated,
            backend_can=can if self.backend.offers is None else self.backend.offers,
            has_means=not (self.backend.offers and self.backend.can is False),
            asked=self.family.name not in knowledge().stock.unasked,
            legacy=self._legacy(self.interface.stock),
            version_1=self._version_1(presumed=True),
        )

    def _version_1(self, *, presumed: bool) -> bool:
        """Whether the device offers VERSION_1, as far as its transport looks at the plug.

        Args:
            presumed: QEMU takes it for granted of some types.
        """
        if self.backend.version_1:
            return True
        return presumed and self.family.name in knowledge().stock.presumed

    def _legacy(self, legacy: Legacy) -> Legacy:
        """The interface: without VERSION_1, a driver of CCW gets revision 0 and no other."""
        without = self.kind.transport == "ccw" and not self._version_1(presumed=True)
        return "only" if without and self.family.legacy else legacy

    def _remedies(
        self, translated: bool, plugged: Expectation, driven: Expectation, on_stock: Conclusion
    ) -> Sequence[str]:
        if self._unchecked:
            return remedy.of_simulation()
        if self.interface.error:
            return [REMEDY.get(self.interface.error, "bus= of a port or bridge below it")]
        if plugged.outcome is Outcome.REFUSED:
            return self._of_refusal(translated)
        if driven.outcome is Outcome.UNSERVED:
            return remedy.of_service(
                declines=self.family.declined,
                demands=bool(self.machine.confidential),
                requested=self.requested,
            )
        if on_stock.outcome is Outcome.REFUSED:
            return remedy.of_stock(
                requested=self.requested, demands=bool(self.machine.confidential)
            )
        return []

    def _of_refusal(self, translated: bool) -> Sequence[str]:
        """What helps where the fork refuses it, in the order in which it asks."""
        if self.private:
            return remedy.of_memory()
        if self.backend.kind is Kind.VDPA and not self.interface.legacy:
            return remedy.of_vdpa()
        return remedy.of_refusal(
            transport=self.kind.transport,
            requested=self.requested,
            translated=translated,
            legacy=self.interface.legacy,
            version_1=self._version_1(presumed=self.machine.lenient),
            is_iommu=self.family.iommu,
            demands=bool(self.machine.confidential),
            fixed=self._fixed,
        )


def _alike(one: Verdict, other: Verdict) -> bool:
    return (one.driven.outcome, one.on_stock, one.driven_on_stock) == (
        other.driven.outcome,
        other.on_stock,
        other.driven_on_stock,
    )


def remarks(facts: Facts) -> list[str]:
    """What is worth saying beside what becomes of it."""
    found = []
    if not facts.backend.version_1 and facts.kind.transport == "mmio":
        found.append("nobody looks at the plug whether the back-end offers VERSION_1, as it must")
    unasked = facts.family.name in knowledge().stock.unrequested and not facts.requested
    if unasked and facts.backend.offers is not False:
        where = "stock QEMU and this machine type" if facts.lenient else "stock QEMU"
        found.append(f"{where}: the bit is offered though nobody asks, if its back-end has it")
    if facts.lenient and facts.requested:
        found.append(
            "it does not insist: a driver that does not accept the bit is served, as on stock QEMU"
        )
    return found
