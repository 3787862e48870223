"""A front-end that answers a back-end's IOTLB misses."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from qap.oracle.features import FeatureBit, mask
from qap.vhost_user.backend import Backend
from qap.vhost_user.memory.iotlb import IOTLB_MSG, IotlbType, Permission
from qap.vhost_user.protocol import (
    REPLY,
    VERSION,
    BackendRequest,
    Channel,
    Message,
    ProtocolFeature,
)

from .front_end import PATIENCE_S, Frontend, R, u64
from .ring_driver import (
    DESC,
    DEVICE,
    DRIVER,
    GUEST_BASE,
    IOVA_BASE,
    USER_BASE,
    SharedMemory,
    Split,
    features,
)

PAGE = 0x1000
BOTH = Permission.READ_WRITE


class Iommu:
    """A front-end that answers IOTLB misses, with its back-end."""

    def __init__(
        self, folder: Path, owned: ExitStack, *, reply_ack: bool, gpa: bool = False
    ) -> None:
        self.backend = owned.enter_context(Backend(folder / "s", features=0))
        self.memory = owned.enter_context(SharedMemory())
        self.front = Frontend(self.backend.path)
        owned.callback(self.front.close)
        ours, theirs = socket.socketpair()
        self.sock = owned.enter_context(ours)
        ours.settimeout(PATIENCE_S)
        self.channel = Channel(ours, "the back-end", requests=BackendRequest)
        wanted = [ProtocolFeature.BACKEND_REQ]
        wanted += [ProtocolFeature.REPLY_ACK] if reply_ack else []
        wanted += [ProtocolFeature.GPA_ADDRESSES] if gpa else []
        self.base = GUEST_BASE if gpa else USER_BASE
        self.front.tell(R.SET_PROTOCOL_FEATURES, u64(mask(wanted)))
        with theirs:
            self.front.tell(R.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        self.driver = Split(
            self.backend,
            self.front,
            self.memory,
            features(FeatureBit.ACCESS_PLATFORM),
            rings=IOVA_BASE,
            buffers=IOVA_BASE,
        )
        owned.callback(self.driver.close)
        self.driver.connect()
        self.driver.enable()

    def kick(self) -> None:
        os.eventfd_write(self.driver.kick, 1)

    def missed(self) -> tuple[int, int]:
        """The next miss: its offset from the first IOVA, and the permission wanted."""
        with self.channel.receive() as asked:
            iova, _, _, permission, kind = IOTLB_MSG.unpack(asked.payload)
            assert (asked.request, kind) == (BackendRequest.IOTLB_MSG, IotlbType.MISS)
            self.needs_reply = asked.needs_reply
        return iova - IOVA_BASE, permission

    def update(self, offset: int, permission: int = BOTH, *, to: int | None = None) -> None:
        """Send the translation of a page."""
        page = offset & -PAGE
        user = self.base + (page if to is None else to)
        entry = IOTLB_MSG.pack(IOVA_BASE + page, PAGE, user, permission, IotlbType.UPDATE)
        assert self.front.ask_u64(R.IOTLB_MSG, entry) == 0

    def invalidate(self, offset: int, size: int = PAGE) -> None:
        gone = IOTLB_MSG.pack(IOVA_BASE + offset, size, 0, 0, IotlbType.INVALIDATE)
        assert self.front.ask_u64(R.IOTLB_MSG, gone) == 0

    def reply(self, value: int = 0) -> None:
        self.channel.send(Message(BackendRequest.IOTLB_MSG, u64(value), VERSION | REPLY))

    def translate(self, permission: int = BOTH) -> tuple[int, int]:
        """Answer the next miss; returns it."""
        offset, wanted = self.missed()
        self.update(offset, permission)
        self.reply()
        return offset, wanted

    def translate_rings(self) -> None:
        """Send the translations of the three ring areas."""
        for offset in (DESC, DRIVER, DEVICE):
            self.update(offset)
