"""How a device is plugged, without its driver."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qap.machine.catalog import (
    Between,
    DeviceType,
    Interface,
    MachineType,
    Property,
    device_types,
    machine_types,
)
from qap.matrix.tables import (
    FENCED,
    STAYS,
    BackendRow,
    FenceRow,
    LaterRow,
    ViommuRow,
    tables,
)
from qap.oracle import fence as oracle

NO_ORDER = "any"
# The byte order of the kernel lab.
LAB_ORDER = "little"


@dataclass(frozen=True)
class Setup:
    """A device as it is plugged; what all its drivers share.

    Attributes:
        order: the vIOMMU's place on the command line, seen from a cold-plugged device.
        later: what happens to it while a driver uses it.
        fence: whether it insists on ACCESS_PLATFORM.
    """

    machine: str
    interface: str
    device: str
    backend: str
    viommu: str
    order: str
    iommu_platform: str
    plug: str
    later: str = STAYS
    fence: str = FENCED

    @property
    def machine_row(self) -> MachineType:
        return machine_types()[self.machine]

    @property
    def ports(self) -> Sequence[Mapping[str, Property]]:
        """What has to be on the machine for the device's place."""
        port = self.machine_row.port
        return (port,) if port else ()

    @property
    def more(self) -> Mapping[str, str]:
        """What was asked for beside the axes of the matrix, and what was asked of it."""
        return {}

    @property
    def roots(self) -> tuple[int, ...]:
        """The numbers of the machine's root buses of PCI."""
        return (0,)

    @property
    def ats(self) -> bool:
        """Whether the device and its vIOMMU have an address translation service, which is used."""
        return False

    @property
    def interface_row(self) -> Interface:
        return self.machine_row.interface[self.interface]

    @property
    def device_row(self) -> DeviceType:
        return device_types()[self.device]

    @property
    def backend_row(self) -> BackendRow:
        return tables().backend[self.backend]

    @property
    def viommu_row(self) -> ViommuRow:
        return tables().viommu[self.viommu]

    @property
    def later_row(self) -> LaterRow:
        return tables().later[self.later]

    @property
    def fence_row(self) -> FenceRow:
        return tables().fence[self.fence]

    @property
    def machine_type(self) -> str:
        """What -machine calls it."""
        row, version = self.machine_row, self.fence_row.version
        return row.versioned.format(version) if version else row.called

    @property
    def destination(self) -> "Setup | None":
        """The device where its VM migrates to, if it does."""
        moves_to = self.later_row.moves_to
        return replace(self, iommu_platform=moves_to, later=STAYS) if moves_to else None

    @property
    def device_type(self) -> str:
        """What -device calls it."""
        return self.device_row.driver(self.machine_row.transport)

    @property
    def reconnects(self) -> bool:
        """Whether QEMU connects again when its back-end has gone."""
        vhost_user = self.device_row.vhost_user
        return vhost_user is not None and vhost_user.reconnects

    @property
    def between(self) -> Between | None:
        """The object between its chardev and it, if it needs one."""
        vhost_user = self.device_row.vhost_user
        return vhost_user.between if vhost_user else None

    @property
    def requested(self) -> bool:
        return self.iommu_platform == "on"

    @property
    def translated(self) -> bool:
        return self.machine_row.translates or self.viommu_row.translated

    @property
    def is_exempt(self) -> bool:
        """Whether the platform's firmware is a legacy driver, and so lets others pass."""
        return self.machine_row.transport == "ccw"

    @property
    def is_foreign(self) -> bool:
        """Whether a kernel serves it whose byte order is not the guest's."""
        return self.device_row.kernel is not None and self.machine_row.order != LAB_ORDER

    @property
    def tells(self) -> Mapping[str, Property]:
        """Properties of the vIOMMU with which it tells the device of each mapping, if it has to."""
        return (self.viommu_row.tells or {}) if self.device_row.is_vdpa else {}

    def is_deaf(self, *, newer: bool) -> bool:
        """Whether it has to be told of mappings by a vIOMMU that can't tell of them.

        Args:
            newer: QEMU's vIOMMU has all the properties that are set in newer ones.
        """
        row = self.viommu_row
        can_tell = row.tells is not None or (row.newer_tells and newer)
        return self.device_row.is_vdpa and self.requested and self.translated and not can_tell

    @property
    def plugging(self) -> oracle.Expectation:
        """What plugging it must lead to."""
        legacy = self.interface_row.legacy
        if self.device_row.is_vdpa:
            return oracle.plug_vdpa(
                requested=self.requested,
                translated=self.translated,
                offers=self.can_translate,
            )
        return oracle.plug(
            requested=self.requested,
            translated=self.translated,
            backend_can=self.can_translate,
            legacy="" if legacy == "by-driver" else legacy,
            version_1=self.backend_row.version_1,
            is_iommu=self.device_row.iommu,
        )

    @property
    def can_translate(self) -> bool:
        """Whether what is behind it can serve it behind a vIOMMU."""
        kernel = self.device_row.kernel
        return kernel.access_platform if kernel else self.backend_row.can_translate

    @property
    def in_lab(self) -> bool:
        """Whether it can be carried out in the kernel lab alone."""
        return self.device_row.in_lab

    @property
    def skip(self) -> str:
        """Why it can't be carried out without the kernel lab; "" if it can."""
        return self.device_row.needs
