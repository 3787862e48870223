"""A Python back-end for a given vhost-user device type."""

from collections.abc import Sequence
from pathlib import Path

from qap.host.errors import unknown_name
from qap.machine.catalog import vhost_user_types
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
        name: a vhost-user device type of configs/devices.toml.
        access_platform, version_1, ring_packed: offer these feature bits.
        config: configuration space, for types that have one; zeroes if None.
        service: serves a chain of buffers.
        misbehaviour: what it does wrong.
    Raises:
        UsageError: no such device type.
    """
    known = vhost_user_types()
    if name not in known:
        raise unknown_name("vhost-user device type", name, known)
    wanted = known[name].vhost_user
    assert wanted is not None
    asked_for = {
        FeatureBit.ACCESS_PLATFORM: access_platform,
        FeatureBit.VERSION_1: version_1,
        FeatureBit.RING_PACKED: ring_packed,
    }
    features = [*FEATURES, *wanted.features, *(bit for bit, yes in asked_for.items() if yes)]
    protocol = [*PROTOCOL, *(ProtocolFeature[feature] for feature in wanted.protocol)]
    if wanted.config:
        protocol.append(ProtocolFeature.CONFIG)
    return Backend(
        path,
        features=mask(features),
        protocol_features=mask(protocol),
        config=bytes(wanted.config) if config is None else config,
        service=service,
        misbehaviour=misbehaviour,
    )
