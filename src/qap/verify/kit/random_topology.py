"""Command lines at random: machines, buses, IOMMUs, devices, properties, back-ends and orders."""

import json
import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from qap.machine.catalog import DeviceType, device_types
from qap.machine.device_type import Transport

VERSIONS = ("", "", "", "9.2", "8.2", "6.2")
IOMMUS = ("", "", "intel-iommu", "amd-iommu", "virtio-iommu-pci")
TOLD = ("ACCESS_PLATFORM", "none", "none,-VERSION_1", "ACCESS_PLATFORM,-REPLY_ACK", "")
# virtio-iommu is the machine's own here, and a netdev that is refused is tried for ever.
LEFT_OUT = ("virtio-iommu", "virtio-pmem", "virtio-mem", "virtio-vga", "vhost-user-vga")


@dataclass
class Topology:
    """A command line.

    Attributes:
        backends: what --backend is given.
    """

    program: str
    machine: str
    words: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    backends: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        line = shlex.join([self.program, "-nodefaults", "-machine", self.machine, *self.words])
        return "\n".join([line, *self.later, ""])


def topology(seed: int) -> Topology:
    """The topology of a seed."""
    dice = random.Random(seed)
    kind = dice.choice(["q35", "q35", "q35", "pc", "microvm", "s390x"])
    made = {"q35": _q35, "pc": _pc, "microvm": _microvm, "s390x": _s390x}[kind](dice)
    if dice.random() < 0.1:
        made.machine += ",confidential-guest-support=cgs0"
        made.words += ["-object", "sev-guest,id=cgs0"]
    share = dice.choice(["on", "on", "on", "off", ""])
    if share:
        made.machine += ",memory-backend=mem0"
        made.words += ["-object", f"memory-backend-memfd,id=mem0,size=128M,share={share}"]
    return made


def _shuffled(dice: random.Random, groups: list[list[str]]) -> list[str]:
    """Groups of words in any order, each whole."""
    dice.shuffle(groups)
    return [word for group in groups for word in group]


def _q35(dice: random.Random) -> Topology:
    version = dice.choice(VERSIONS)
    bypass = dice.choice(["", "", ",default-bus-bypass-iommu=on"])
    made = Topology("qemu-system-x86_64", (f"pc-q35-{version}" if version else "q35") + bypass)
    places = [("", True), ("rp0", True), ("rp1", True)]
    made.words += ["-device", "pcie-root-port,id=rp0,chassis=1"]
    made.words += ["-device", "pcie-root-port,id=rp1,chassis=2"]
    if dice.random() < 0.4:
        off = dice.choice(["", ",bypass_iommu=on", ",bypass_iommu=off"])
        made.words += ["-device", f"pxb-pcie,id=pxb0,bus_nr=32{off}"]
        made.words += ["-device", "pcie-root-port,id=rp2,bus=pxb0,chassis=3"]
        places.append(("rp2", True))
    if dice.random() < 0.3:
        bus = dice.choice(["pcie.0", "rp1"])
        places = [place for place in places if place[0] != bus]
        made.words += ["-device", f"pcie-pci-bridge,id=br0,bus={bus}"]
        places.append(("br0", False))
    iommu = dice.choice(IOMMUS)
    # A device that does not say its bus goes to a pxb.
    if iommu.startswith("virtio-"):
        iommu += ",bus=pcie.0,iommu_platform=off"
    _with_devices(dice, made, "pci", places, iommu)
    return made


def _pc(dice: random.Random) -> Topology:
    version = dice.choice(VERSIONS)
    made = Topology("qemu-system-x86_64", f"pc-i440fx-{version}" if version else "pc")
    places = [("", True), ("", True)]
    if dice.random() < 0.4:
        made.words += ["-device", "pci-bridge,id=br0,chassis_nr=1"]
        places.append(("br0", False))
    if dice.random() < 0.4:
        off = dice.choice(["", ",bypass_iommu=on"])
        made.words += ["-device", f"pxb,id=pxb0,bus_nr=32{off}"]
        places.append(("pxb0", False))
    iommu = dice.choice(["", "", "virtio-iommu-pci,bus=pci.0,iommu_platform=off"])
    _with_devices(dice, made, "pci", places, iommu)
    return made


def _microvm(dice: random.Random) -> Topology:
    made = Topology("qemu-system-x86_64", "microvm")
    if (legacy := dice.choice(["", "on", "off"])) != "":
        made.words += ["-global", f"virtio-mmio.force-legacy={legacy}"]
    _with_devices(dice, made, "mmio", [("", False)] * 2, "")
    return made


def _s390x(dice: random.Random) -> Topology:
    version = dice.choice(VERSIONS)
    made = Topology(
        "qemu-system-s390x", f"s390-ccw-virtio-{version}" if version else "s390-ccw-virtio"
    )
    transport: Transport = dice.choice(["ccw", "ccw", "pci"])
    _with_devices(dice, made, transport, [("", True)] * 2, "")
    return made


def _with_devices(
    dice: random.Random,
    made: Topology,
    transport: Transport,
    places: list[tuple[str, bool]],
    iommu: str,
) -> None:
    """Devices at some of the places, and an IOMMU before, between or after them.

    Args:
        places: buses, and whether they take a device when the machine runs.
    """
    groups = [["-device", iommu]] if iommu else []
    dice.shuffle(places)
    hardly = made.machine.startswith(("q35", "pc-q35"))
    for number, (bus, hot) in enumerate(places[: dice.randint(1, 3)]):
        family = _family(dice, transport)
        properties, before = _device(dice, made, family, transport, f"dev{number}")
        if bus:
            properties["bus"] = bus
        later = hot and not family.hotplug and dice.random() < 0.3 and (bus or not hardly)
        if later and transport != "mmio" and "netdev" not in properties:
            made.words += before
            made.later.append(
                json.dumps({"execute": "device_add", "arguments": properties})
                if dice.random() < 0.5
                else "(qemu) device_add " + _option(properties)
            )
        else:
            shown = _option(properties)
            as_json = dice.random() < 0.3
            groups.append([*before, "-device", json.dumps(properties) if as_json else shown])
    if dice.random() < 0.2:
        driver = dice.choice(["virtio-device", "virtio-rng-device", "virtio-pci"])
        if not (transport == "mmio" and driver == "virtio-pci"):
            made.words += ["-global", f"{driver}.iommu_platform={dice.choice(['on', 'off'])}"]
    made.words += _shuffled(dice, groups)


def _option(properties: dict[str, str]) -> str:
    rest = [f"{key}={value}" for key, value in properties.items() if key != "driver"]
    return ",".join([properties["driver"], *rest])


def _family(dice: random.Random, transport: Transport) -> DeviceType:
    fitting = [
        family
        for name, family in device_types().items()
        if transport in family.every_transport and not family.needs and name not in LEFT_OUT
    ]
    return dice.choice(fitting)


def _device(
    dice: random.Random, made: Topology, family: DeviceType, transport: Transport, name: str
) -> tuple[dict[str, str], Sequence[str]]:
    """A device's properties, and the options that it needs before it."""
    properties = {"driver": family.driver(transport), "id": name}
    if (given := dice.choice(["on", "on", "off", ""])) != "":
        properties["iommu_platform"] = given
    if transport == "pci" and family.legacy:
        _choose_interface(dice, properties)
    if transport == "ccw" and dice.random() < 0.3:
        properties["max_revision"] = dice.choice(["0", "1", "2"] if family.legacy else ["1", "2"])
    before: list[str] = []
    if family.vhost_user:
        chardev, between = f"char-{name}", family.vhost_user.between
        before += ["-chardev", f"socket,id={chardev},path=/run/{name}"]
        if between:
            before += [between.option, f"{between.type},id=between-{name},chardev={chardev}"]
            properties[between.property] = f"between-{name}"
        else:
            properties["chardev"] = chardev
        told = dice.choice(TOLD[:2] + TOLD[4:] if between else TOLD)
        if told:
            made.backends.append(f"{name}={told}")
    return properties, before


def _choose_interface(dice: random.Random, properties: dict[str, str]) -> None:
    chosen = dice.random()
    if chosen < 0.2:
        properties["driver"] += dice.choice(["-transitional", "-non-transitional"])
    elif chosen < 0.5:
        properties["disable-legacy"] = dice.choice(["on", "off", "auto"])
    elif chosen < 0.6:
        properties["disable-modern"] = "on"
