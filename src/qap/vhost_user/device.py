"""The state of a back-end's device, which is kept from one connection to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qap.vhost_user.chain_service import ChainService
from qap.vhost_user.misbehave import Misbehaviour
from qap.vhost_user.records import Records


@dataclass
class Device:
    """What a back-end offers, how it serves, and its records.

    Attributes:
        features: virtio feature bits offered.
        protocol_features: mask of ProtocolFeature bits offered.
        queues: the answer to GET_QUEUE_NUM.
        config: device configuration space.
        service: serves a chain.
        patience: seconds to wait for the front-end's answer on the back-end channel.
        misbehaviour: what it does wrong.
        selects: what the configuration space becomes once the driver has written to it.
        status: of SET_STATUS.
        connections: number of connections so far, with the present one.
    """

    features: int
    protocol_features: int
    queues: int
    config: bytearray
    service: ChainService
    patience: float
    misbehaviour: Sequence[Misbehaviour] = ()
    selects: Callable[[bytes], bytes] = bytes
    status: int = 0
    connections: int = 0
    records: Records = field(default_factory=Records)
