"""Which vhost-user device types there are, and a Python back-end that suits each."""

from functools import cache
from pathlib import Path

from pydantic import Field

from qap.config import Model, checked, read
from qap.errors import unknown_name
from qap.features import FeatureBit, mask
from qap.paths import CONFIGS
from qap.vhost_user.backend import Backend
from qap.vhost_user.protocol import ProtocolFeature

FEATURES = (
    FeatureBit.INDIRECT_DESC,
    FeatureBit.EVENT_IDX,
    FeatureBit.VHOST_USER_PROTOCOL_FEATURES,
    FeatureBit.VERSION_1,
)
PROTOCOL = (ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK, ProtocolFeature.BACKEND_REQ)


class DeviceType(Model):
    """A vhost-user device type (configs/vhost-user.toml).

    Attributes:
        properties: what its -device needs beside the chardev.
        config: bytes of config space that it reads from the back-end; 0 for none.
    """

    name: str
    properties: dict[str, str | int | bool] = Field(default_factory=dict)
    config: int = 0


@cache
def device_types() -> dict[str, DeviceType]:
    path = CONFIGS / "vhost-user.toml"
    return {
        name: checked(DeviceType, {**row, "name": name}, path) for name, row in read(path).items()
    }


def backend(path: Path, name: str, *, access_platform: bool) -> Backend:
    """A back-end for a device type, listening on `path`.

    Args:
        name: a device type of configs/vhost-user.toml.
        access_platform: offer VIRTIO_F_ACCESS_PLATFORM.
    Raises:
        UsageError: no such device type.
    """
    if name not in device_types():
        raise unknown_name("vhost-user device type", name, device_types())
    size = device_types()[name].config
    features = [*FEATURES, *([FeatureBit.ACCESS_PLATFORM] if access_platform else [])]
    protocol = [*PROTOCOL, *([ProtocolFeature.CONFIG] if size else [])]
    return Backend(
        path, features=mask(features), protocol_features=mask(protocol), config=bytes(size)
    )
