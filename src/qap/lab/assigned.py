"""A PCI Express device of L1 that VFIO gives to a QEMU in it."""

from dataclasses import dataclass

from qap.host.errors import QapError
from qap.lab.l1 import L1
from qap.machine.device import Device

DRIVERS = "/sys/bus/pci/drivers"
BOUND_S = 20.0
# QEMU's virtio-pci devices and root ports have AER first in extended configuration space.
AER_STATUS = 0x104
# And virtio-pci devices have the PCI Express capability first of all.
DEVICE_CONTROL = 0x48


@dataclass(frozen=True)
class Assigned:
    """The device behind a root port of L1, bound to vfio-pci.

    Errors are injected by the monitor of L1's machine, so L1's kernel meets them as it would
    meet those of hardware.

    Args:
        l1: where it is.
        device_id: its id, and that of its port with “-port”, in configs/lab.toml.
        address: domain, bus, device and function in L1.
    """

    l1: L1
    device_id: str
    address: str

    @classmethod
    def behind(cls, l1: L1, device_id: str, port: str) -> "Assigned":
        """Bind what is behind the port at the address `port`, such as "1c.0", to vfio-pci.

        Raises:
            GuestCommandError: L1's kernel did not bind it.
        """
        address = l1.check(
            f"cd /sys/bus/pci/devices/0000:00:{port} && set -- 0000:??:??.? && "
            f"echo vfio-pci >$1/driver_override && "
            f"if test -e $1/driver; then echo $1 >$1/driver/unbind; fi && "
            f"echo $1 >/sys/bus/pci/drivers_probe && test -e {DRIVERS}/vfio-pci/$1 && echo $1",
            BOUND_S,
        )
        return cls(l1, device_id, address.strip())

    @property
    def port_id(self) -> str:
        """The id of its root port in L1's machine."""
        return f"{self.device_id}-port"

    def device(self, bus: str, properties: Device | None = None) -> Device:
        """The vfio-pci device for a QEMU in L1, with more properties."""
        device = {"driver": "vfio-pci", "id": "dut", "bus": bus, "host": self.address}
        return {**device, **(properties or {})}

    def inject(self, error: str, *, port: bool = False) -> None:
        """Let the device report an error, or its port, and name it as QEMU does.

        Args:
            error: such as "COMP_TIME", which is not fatal, "DLP", which is, and "RCVR", which
                is corrected.
        """
        source = self.port_id if port else self.device_id
        said = self.l1.machine.qmp.hmp(f"pcie_aer_inject_error {source} {error}")
        if not said.startswith("OK"):
            raise QapError(f"pcie_aer_inject_error {source} {error}: {said.strip()}")

    def settings(self) -> str:
        """What the host has set of the device: Device Control, and AER's mask and severity."""
        return self.l1.check(
            f"cd /sys/bus/pci/devices/{self.address} && "
            f"od -A n -t x2 -j {DEVICE_CONTROL} -N 2 config && "
            f"od -A n -t x4 -j {AER_STATUS + 4} -N 8 config"
        )

    def forget_errors(self) -> None:
        """Clear Uncorrectable Error Status of the device and its port, where fatal ones stay."""
        folder = f"/sys/bus/pci/devices/{self.address}"
        for config in (f"{folder}/config", f"{folder}/../config"):
            self.l1.check(
                f"printf '\\377\\377\\377\\377' | "
                f"dd of={config} bs=1 seek={AER_STATUS} conv=notrunc status=none"
            )
