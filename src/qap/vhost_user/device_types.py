"""Which vhost-user device types there are, and a Python back-end that suits each."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydantic import Field

from qap.host.errors import unknown_name
from qap.host.paths import data
from qap.host.toml import Model, checked, read
from qap.machine.device import Device
from qap.oracle.features import FeatureBit, mask
from qap.vhost_user.backend import Backend
from qap.vhost_user.chain_service import ChainService, fill
from qap.vhost_user.misbehave import Misbehaviour
from qap.vhost_user.protocol import ProtocolFeature

FEATURES = (
    FeatureBit.INDIRECT_DESC,
    FeatureBit.EVENT_IDX,
    FeatureBit.VHOST_USER_PROTOCOL_FEATURES,
)
PROTOCOL = (ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ)


class Between(Model):
    """What QEMU puts between the chardev and the device.

    Attributes:
        option: of the command line, with its dash.
        type: its value's first word.
        property: of the -device, which names it.
    """

    option: str
    type: str
    property: str


class DeviceType(Model):
    """A vhost-user device type (configs/vhost-user.toml).

    Attributes:
        properties: what its -device needs beside the chardev.
        config: bytes of config space that it reads from the back-end; 0 for none.
        plain: it is NAME-pci with a chardev, fenced and hot-pluggable.
        driver: the -device on PCI, if that isn't NAME-pci.
        between: what stands between chardev and device, if anything does.
        hotplug: it can be hot-plugged.
        features: numbers of the feature bits that it needs.
        protocol: names of the protocol features that it needs.
    """

    name: str
    properties: dict[str, str | int | bool] = Field(default_factory=dict)
    config: int = 0
    plain: bool = True
    driver: str = ""
    between: Between | None = None
    hotplug: bool = True
    features: list[int] = Field(default_factory=list)
    protocol: list[str] = Field(default_factory=list)

    def pci(self, chardev: str) -> tuple[Device, list[str]]:
        """Its PCI device with a chardev's name, and what the command line needs before it."""
        device: Device = {"driver": self.driver or f"{self.name}-pci", **self.properties}
        if self.between is None:
            return {**device, "chardev": chardev}, []
        name = f"{chardev}-{self.between.property}"
        value = f"{self.between.type},id={name},chardev={chardev}"
        return {**device, self.between.property: name}, [self.between.option, value]


@cache
def all_types() -> dict[str, DeviceType]:
    """Every device type, by name."""
    path = data() / "vhost-user.toml"
    return {
        name: checked(DeviceType, {**row, "name": name}, path) for name, row in read(path).items()
    }


@cache
def device_types() -> dict[str, DeviceType]:
    """The plain ones, by name."""
    return {name: one for name, one in all_types().items() if one.plain}


def backend(
    path: Path,
    name: str,
    *,
    access_platform: bool,
    version_1: bool = True,
    ring_packed: bool = False,
    config: bytes | None = None,
    service: ChainService = fill,
    misbehaviour: Sequence[Misbehaviour] = (),
) -> Backend:
    """A back-end for a device type, listening on `path`.

    Args:
        name: a device type of configs/vhost-user.toml.
        access_platform, version_1, ring_packed: offer these feature bits.
        config: of a type that reads config space; zeroes if None.
        service: what it makes of a chain of buffers.
        misbehaviour: what it does wrong.
    Raises:
        UsageError: no such device type.
    """
    if name not in all_types():
        raise unknown_name("vhost-user device type", name, all_types())
    kind = all_types()[name]
    asked_for = {
        FeatureBit.ACCESS_PLATFORM: access_platform,
        FeatureBit.VERSION_1: version_1,
        FeatureBit.RING_PACKED: ring_packed,
    }
    features = [*FEATURES, *kind.features, *(bit for bit, yes in asked_for.items() if yes)]
    protocol = [*PROTOCOL, *(ProtocolFeature[one] for one in kind.protocol)]
    if kind.config:
        protocol.append(ProtocolFeature.CONFIG)
    return Backend(
        path,
        features=mask(features),
        protocol_features=mask(protocol),
        config=bytes(kind.config) if config is None else config,
        service=service,
        misbehaviour=misbehaviour,
    )
