"""The vDPA devices of the tests by name, and L2s in front of them."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from qap.hw.pci_bus import PciBus
from qap.iommu.find import find_iommu
from qap.lab.l1 import L1
from qap.lab.l2 import L2
from qap.lab.vdpa import VDPA, Vdpa, VduseDisk, passed_through, simulated
from qap.lab.vdpa_calls import Calls, calls
from qap.machine.catalog import machine_types, viommus
from qap.machine.device import Device
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.spec import Spec
from qap.oracle.features import mask
from qap.virtio.blk import SECTOR, Blk
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.net import FEATURE_MAC, Net
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import MODERN_DEVICE_ID, VENDOR_ID, PciModern
from qap.virtio.transport import Transport

# L1's NICs for vp_vdpa (configs/lab.toml). BARE does not offer ACCESS_PLATFORM.
BARE, FULL = "0000:00:10.0", "0000:00:11.0"
SECTORS = 64
CONTENT = b"".join(number.to_bytes(4, "little") * (SECTOR // 4) for number in range(SECTORS))
MAC = bytes.fromhex("5254001234aa")
BROADCAST = b"\xff" * 6
VIOMMUS = ("none", "intel-iommu", "virtio-iommu")
# Network cards and disks: a vIOMMU may be a virtio device, too.
DEVICE_IDS = (0x1000, 0x1001, MODERN_DEVICE_ID + 1, MODERN_DEVICE_ID + 2)
TABLES, RINGS = 16 * MIB, 32 * MIB
RINGS_IOVA = 1 << 30
# Devices that offer ACCESS_PLATFORM; "NAME nic" has virtio-net in front, the others the generic
# device.
OFFERING = ("vduse", "sim", "sim nic", "vp", "vp nic")
NOT_OFFERING = ("bare", "bare nic")
DISKS = ("vduse",)
# By what names without what is in front stand for: the driver in L1's kernel.
PARENTS = {"vduse": "vduse_vdpa", "sim": "vdpasim", "vp": "vp_vdpa", "bare": "vp_vdpa"}
# One for each of QEMU's devices.
FRONTS = ("vduse", "sim nic")


def make(l1: L1, name: str) -> AbstractContextManager[Vdpa]:
    """A vDPA device in L1, other than a vduse disk."""
    if name == "sim":
        return simulated(l1, "net", "mac", MAC.hex(":"))
    return passed_through(l1, BARE if name == "bare" else FULL)


@dataclass
class Made:
    """A vDPA device in L1, with a record of what its driver is asked. Use as a context manager.

    Args:
        kind: a name of OFFERING or NOT_OFFERING, without what is in front.

    Attributes:
        vdpa: the device.
        asked: what the device's driver in L1's kernel is asked.
        disk: the vduse disk, if it is one.
    """

    l1: L1
    kind: str
    vdpa: Vdpa = field(init=False)
    asked: Calls = field(init=False)
    disk: VduseDisk | None = field(init=False, default=None)
    _owned: ExitStack = field(init=False, repr=False, default_factory=ExitStack)

    def __enter__(self) -> "Made":
        with ExitStack() as owned:
            if self.kind in DISKS:
                self.disk = owned.enter_context(VduseDisk(self.l1, CONTENT))
                self.vdpa = self.disk.device
            else:
                self.vdpa = owned.enter_context(make(self.l1, self.kind))
            self.asked = owned.enter_context(calls(self.l1, self.vdpa))
            self._owned = owned.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()


@dataclass
class MadeOnce:
    """The vDPA devices that a test leaves as they were. Use as a context manager."""

    l1: L1
    _kept: dict[str, Made] = field(default_factory=dict)

    def __enter__(self) -> "MadeOnce":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as owned:
            for made in self._kept.values():
                owned.push(made)
            self._kept.clear()

    def take(self, name: str) -> Made:
        """The device of this name, with nothing asked of it yet."""
        kind = name.split(maxsplit=1)[0]
        made = self._kept.get(kind)
        if made is None or (made.disk and not made.disk.is_served):
            self.give_up(name)
            made = self._kept[kind] = Made(self.l1, kind).__enter__()
        made.asked.forget()
        return made

    def give_up(self, name: str) -> None:
        """End this device and those of its driver, which can't be recorded beside it."""
        driver = PARENTS[name.split(maxsplit=1)[0]]
        for kind in [kind for kind in self._kept if PARENTS[kind] == driver]:
            self._kept.pop(kind).__exit__()


@dataclass
class Site:
    """L2s in front of a vDPA device in L1; use as a context manager, which ends them.

    Args:
        name: one of OFFERING or NOT_OFFERING.
    """

    name: str
    made: Made
    _owned: ExitStack = field(init=False, repr=False, default_factory=ExitStack)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    @property
    def l1(self) -> L1:
        return self.made.l1

    @property
    def vdpa(self) -> Vdpa:
        return self.made.vdpa

    @property
    def asked(self) -> Calls:
        """What the device's driver in L1's kernel is asked."""
        return self.made.asked

    @property
    def disk(self) -> VduseDisk | None:
        return self.made.disk

    @property
    def is_nic(self) -> bool:
        """Whether virtio-net is in front of it."""
        return self.name.endswith(" nic")

    @property
    def device(self) -> Device:
        """What QEMU has in front of the vDPA device."""
        if self.is_nic:
            return {"driver": "virtio-net-pci", "id": "dut", "netdev": "net0"}
        return {"driver": "vhost-vdpa-device-pci", "id": "dut", "vhostdev": self.vdpa.node}

    def configuration(self) -> bytes:
        """How the device's configuration begins: a disk's capacity, a network card's address."""
        if self.disk:
            return SECTORS.to_bytes(8, "little")
        config = json.loads(self.l1.check(f"{VDPA} -j dev config show {self.vdpa.name}"))
        return bytes.fromhex(config["config"][self.vdpa.name]["mac"].replace(":", ""))

    def l2(
        self,
        *devices: Device,
        viommu: str = "none",
        machine: str = "q35",
        extra: Sequence[str] = (),
        wrapper: Sequence[str] = (),
    ) -> L2:
        """An L2 with these devices and a root port, "port0"; it ends with this site.

        Raises:
            QemuDied: QEMU refused its command line.
        """
        listed: list[Device] = [*devices]
        if machine.startswith(("q35", "pc-q35")):
            listed = [*machine_types()["q35"].ports, *devices]
        if iommu := viommus()[viommu].device:
            listed.insert(0, {**iommu, **(viommus()[viommu].tells or {})})
        netdev = ("-netdev", f"vhost-vdpa,id=net0,vhostdev={self.vdpa.node}")
        spec = Spec(
            machine=machine,
            accel="qtest",
            memory=128,
            qtest=True,
            devices=listed,
            extra=[*(netdev if self.is_nic else ()), *extra],
        )
        emulator = self.l1.build.path("qemu-system-x86_64")
        return self._owned.enter_context(L2(emulator, spec, wrapper=wrapper, l1=self.l1))

    def plugged(
        self, *, viommu: str = "none", iommu_platform: bool = False, **properties: object
    ) -> "Plugged":
        """An L2 with the device on its command line, driven through the modern interface.

        What does not request ACCESS_PLATFORM is not translated, whatever the bus does.
        """
        device = {**self.device, "addr": "0x5", "iommu_platform": iommu_platform}
        named = {name.replace("_", "-"): value for name, value in properties.items()}
        machine = self.l2({**device, **named}, viommu=viommu)
        return plugged(machine, translated=iommu_platform and viommu != "none")


@dataclass
class Plugged:
    """An L2 and the device in it.

    Attributes:
        memory: for the device's rings and buffers.
    """

    machine: L2
    transport: Transport
    memory: GuestMemory

    def serves(self, behaviour: Behaviour | None = None) -> Driver:
        """Use the device, which must work; returns its driver.

        A disk is read and written, and a NIC sends a frame.
        """
        behaviour = behaviour or Behaviour(MODERN | mask([FEATURE_MAC]))
        driver = Driver(self.transport, self.memory, behaviour)
        driver.negotiate()
        if self.transport.device_type == 2:
            disk = Blk(driver)
            assert disk.read(3) == CONTENT[3 * SECTOR : 4 * SECTOR]
            disk.write(4, b"written!" * (SECTOR // 8))
            assert disk.read(4) == b"written!" * (SECTOR // 8)
        else:
            Net(driver).send(BROADCAST + MAC + b"\x88\xb5" + bytes(46))
        return driver


def plugged(machine: L2, *, translated: bool = False, legacy: bool = False) -> Plugged:
    """The device of an L2; `translated` maps its memory for it in the machine's IOMMU."""
    bus = PciBus(machine.qtest)
    function = bus.find(VENDOR_ID, *DEVICE_IDS)
    memory = GuestMemory(machine.qtest, RINGS, 4 * MIB)
    if translated:
        iommu = find_iommu(bus, GuestMemory(machine.qtest, TABLES, 4 * MIB))
        iommu.enable()
        memory = GuestMemory(machine.qtest, RINGS, 4 * MIB, RINGS_IOVA)
        iommu.attach(function.bdf)
        iommu.map_memory(function.bdf, memory)
    transport = PciLegacy(function) if legacy else PciModern(function)
    return Plugged(machine, transport, memory)


# Makes a site.
Start = Callable[[str], Site]
