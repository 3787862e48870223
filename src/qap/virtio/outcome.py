"""What became of a device, and of QEMU, after its driver broke the rules."""

from collections.abc import Callable
from dataclasses import dataclass

from qap.host.errors import QapError
from qap.machine.machine import Machine, QemuDied
from qap.machine.qtest_error import QemuHangs, QtestLost
from qap.oracle.status import Status
from qap.virtio.ccw import READ_STATUS_REVISION, VirtioCcw
from qap.virtio.driver import Driver


@dataclass(frozen=True)
class Outcome:
    """What `outcome` saw.

    Attributes:
        alive: QEMU runs and answers; where it does not, nothing below is known.
        ended: why not: QemuDied with QEMU's last lines, or QemuHangs.
        needs_reset: the status has DEVICE_NEEDS_RESET (2.1.2); None where no status can be read.
        isr: the ISR status, which is cleared: bit 0 for queues, bit 1 for configuration.
        generation: of the configuration; None where the transport has none.
        recovers: after a reset, the device works.
    """

    alive: bool
    ended: QapError | TimeoutError | None = None
    needs_reset: bool | None = None
    isr: int = 0
    generation: int | None = None
    recovers: bool = False


def outcome(machine: Machine, driver: Driver, works: Callable[[Driver], object]) -> Outcome:
    """Look at a device, and whether it works again.

    Args:
        works: uses the device that `driver` has negotiated with once more, and raises if it
            doesn't work, such as `lambda driver: Rng(driver).read(1)`.
    """
    transport = driver.transport
    try:
        silent = isinstance(transport, VirtioCcw) and transport.revision < READ_STATUS_REVISION
        needs_reset = None if silent else Status.DEVICE_NEEDS_RESET in transport.status
        isr, generation = transport.isr_status(), transport.config_generation
        recovers = _recovers(driver, works)
        alive = machine.alive
    except (QemuDied, QemuHangs, QtestLost) as ended:
        return Outcome(alive=False, ended=ended)
    return Outcome(alive, None, needs_reset, isr, generation, recovers)


def _recovers(driver: Driver, works: Callable[[Driver], object]) -> bool:
    try:
        driver.negotiate()
        works(driver)
    except (QemuDied, QemuHangs, QtestLost):
        raise
    except (QapError, TimeoutError):
        return False
    return True
