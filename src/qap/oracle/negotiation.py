"""A model of virtio 1.3: what a device may answer to a driver, right or wrong.

If a driver breaks the rules, the specification often does not say what the device does;
then the model allows every answer.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from qap.oracle.features import FeatureBit, mask
from qap.oracle.status import Status

ACCESS_PLATFORM = mask([FeatureBit.ACCESS_PLATFORM])
VERSION_1 = mask([FeatureBit.VERSION_1])
NOTHING = Status(0)


class DriverStep(IntEnum):
    """The last step of a driver that follows 3.1.1, or 3.1.2 if it is legacy.

    ASTRAY: it has broken the rules.
    """

    ASTRAY = -1
    RESET = 0
    ACKNOWLEDGE = 1
    DRIVER = 2
    FEATURES = 3
    FEATURES_OK = 4
    QUEUE = 5
    DRIVER_OK = 6


class Serves(Enum):
    """Whether a device is to use the available buffers."""

    MUST = "must"
    MUST_NOT = "must not"
    MAY = "may"


@dataclass
class Negotiation:
    """A device and its driver, since a reset.

    Args:
        offered: the features that the driver can see.
        legacy: the driver uses the legacy interface.
        fenced: the device requires ACCESS_PLATFORM, even if the driver can't see it.

    Attributes:
        features: what the driver wrote last; None if nothing since the reset.
        status: what the device status field reads.
        unsettled: the device may use other features: some were written after FEATURES_OK
            (3.1.1 step 5), or it refused some and the driver did not give up (step 6).
        queue: whether the driver has enabled its queue.
        step: the driver's.
    """

    offered: int
    legacy: bool
    fenced: bool
    features: int | None = None
    unsettled: bool = False
    status: Status = NOTHING
    queue: bool = False
    step: DriverStep = DriverStep.RESET

    @property
    def valid(self) -> bool:
        """Whether the device has no reason to refuse the features (2.2.1, 6.1)."""
        if self.features is None or self.features & ~self.offered:
            return False
        needed = 0 if self.legacy else VERSION_1
        needed |= ACCESS_PLATFORM if self.fenced else 0
        return not needed & ~self.features

    @property
    def serves(self) -> Serves:
        # 2.1.2: no buffer is consumed before DRIVER_OK.
        if Status.DRIVER_OK not in self.status or not self.queue:
            return Serves.MUST_NOT
        return Serves.MUST if self.step is DriverStep.DRIVER_OK and self.valid else Serves.MAY

    @property
    def fails(self) -> bool:
        """Whether the device may fail to operate: ACCESS_PLATFORM was not accepted (6.1)."""
        if not self.fenced:
            return False
        return self.unsettled or not (self.features or 0) & self.offered & ACCESS_PLATFORM

    def write_features(self, features: int) -> None:
        """The driver writes the features that it accepts."""
        in_time = self.step in (DriverStep.DRIVER, DriverStep.FEATURES)
        self.unsettled = self.unsettled or Status.FEATURES_OK in self.status
        self.features = features
        self.step = DriverStep.FEATURES if in_time else DriverStep.ASTRAY

    def enable_queue(self) -> None:
        """The driver enables its queue (3.1.1 step 7)."""
        ready = DriverStep.FEATURES if self.legacy else DriverStep.FEATURES_OK
        self.queue = True
        self.step = DriverStep.QUEUE if self.step is ready else DriverStep.ASTRAY

    def notify(self) -> None:
        """The driver sends an available buffer notification: not before DRIVER_OK (3.1.1)."""
        if self.step is not DriverStep.DRIVER_OK:
            self.step = DriverStep.ASTRAY

    def allows(self, written: Status, read: Status) -> bool:
        """Whether `read` may be read back after the driver wrote the status `written`, not 0."""
        before = self.status
        decides = self._decides(written)
        if decides and Status.FEATURES_OK in read and self._must_refuse:
            return False
        if self.fails:
            return _between(NOTHING, read, before | written | Status.DEVICE_NEEDS_RESET)
        if decides and Status.FEATURES_OK not in read:
            # 2.2.2 says nothing about other bits in the same write.
            must_keep = self.valid and self.step is DriverStep.FEATURES
            return not must_keep and _between(before & written, read, before | written)
        starts = Status.DRIVER_OK in written & ~before
        if starts and not self.legacy and Status.FEATURES_OK not in before | read:
            # 3.1.1: a device need not accept a driver that leaves out step 5.
            return _between(before & written, read, before | written)
        # A legacy device need not know FEATURES_OK (3.1.2). A device need not clear bits (2.1.1).
        unknown = Status.FEATURES_OK if self.legacy else NOTHING
        return _between(written & ~unknown, read, before | written)

    def _decides(self, written: Status) -> bool:
        """Whether the device is to accept or refuse the features now."""
        return Status.FEATURES_OK in written & ~self.status and not self.legacy

    @property
    def _must_refuse(self) -> bool:
        """Whether the device must refuse: it requires ACCESS_PLATFORM, which is not accepted.

        This holds for drivers that accept VERSION_1; for others both answers are allowed.
        """
        accepted = (self.features or 0) & self.offered
        return self.fails and not self.unsettled and bool(accepted & VERSION_1)

    def drifts(self, read: Status) -> bool:
        """Whether `read` may be read if the driver has not written a status since."""
        needs_reset = Status.DEVICE_NEEDS_RESET if self.fails else NOTHING
        return read in (self.status, self.status | needs_reset)

    def write_status(self, written: Status, read: Status) -> None:
        """The driver wrote a status, not 0, and has read one back."""
        refused = self._decides(written) and Status.FEATURES_OK not in read
        self.unsettled = self.unsettled or refused
        if written != self.status:
            self.step = self._after(written) if read == written else DriverStep.ASTRAY
        self.status = read

    def _after(self, written: Status) -> DriverStep:
        if self.status & ~written:
            return DriverStep.ASTRAY
        onward = {
            (DriverStep.RESET, Status.ACKNOWLEDGE): DriverStep.ACKNOWLEDGE,
            (DriverStep.ACKNOWLEDGE, Status.DRIVER): DriverStep.DRIVER,
            (DriverStep.QUEUE, Status.DRIVER_OK): DriverStep.DRIVER_OK,
        }
        if not self.legacy:
            onward[DriverStep.FEATURES, Status.FEATURES_OK] = DriverStep.FEATURES_OK
        return onward.get((self.step, written & ~self.status), DriverStep.ASTRAY)


def _between(least: Status, read: Status, most: Status) -> bool:
    return not least & ~read and not read & ~most
