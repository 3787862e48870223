"""The judge: whether QEMU lives, answers, has written only where it may, and serves again.

It knows nothing of a walk but what memory its driver gave.
"""

from dataclasses import dataclass, field

from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.hw.s390x_cpu import CpuLost
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import QemuDied
from qap.measure.hostile.arena import GOOD_BASE, GOOD_SIZE
from qap.measure.hostile.bed import Bed
from qap.measure.soak_cycle import SANITIZER
from qap.oracle.features import FeatureBit, mask
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.queue import Buffer

SERVED_S = 5.0
STRAY = "stray write"


class Verdict(QapError):
    """What QEMU must not do; `kind` groups it."""

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(said)
        self.kind = kind


@dataclass
class Judge:
    """Judges the QEMU of a bed, again and again.

    Args:
        bed: where episodes are carried out.
    """

    bed: Bed
    _read: int = field(init=False, default=0)

    def judge(self) -> None:
        """Judge it after an episode.

        Raises:
            Verdict: it wrote where it may not, does not serve, or a sanitizer reported.
            QemuDied: it has ended.
            TimeoutError: it does not answer.
        """
        self.bed.testbed.machine.qmp.execute("query-status")
        self._said()
        self.bed.mend()
        if self.bed.backend_left:
            self.bed.replace()
        self._serves()
        if strays := self.bed.arena.strays():
            raise Verdict(STRAY, f"wrote {strays}")
        self._said()

    def _said(self) -> None:
        """Raises Verdict if a sanitizer reported something since the last look."""
        log = self.bed.testbed.folder / "qemu.log"
        with log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        text = new.decode(errors="replace")
        if SANITIZER.search(text):
            raise Verdict("sanitizer", text[SANITIZER.search(text).start() :])  # type: ignore[union-attr]

    def _serves(self) -> None:
        """A well-behaved driver negotiates and is served."""
        target = self.bed.target
        row = target.setup.device_row
        probe = row.probe
        assert probe is not None
        memory = GuestMemory(self.bed.testbed.session, GOOD_BASE, GOOD_SIZE)
        supports = MODERN | mask(row.accepts)
        if target.packed:
            supports |= mask([FeatureBit.RING_PACKED])
        if target.legacy:
            supports = 0
        try:
            driver = Driver(self.bed.transport(), memory, Behaviour(supports=supports))
            driver.negotiate()
            for other in probe.others:
                driver.queue(other)
            queue = driver.queue(probe.queue)
            driver.start()
            chain = []
            if probe.data:
                chain.append(Buffer(memory.put(probe.data), len(probe.data)))
            if probe.room:
                chain.append(Buffer(memory.take(probe.room), probe.room, writable=True))
            queue.add(chain)
            driver.transport.notify(queue.index)
            poll_until(queue.take_used, SERVED_S, lambda: "a good driver to be served")
            driver.transport.reset()
        except (QemuDied, CpuLost):
            raise
        except TimeoutError as late:
            if "served" not in str(late) and "reset" not in str(late):
                raise
            raise Verdict("does not recover", str(late)) from None
        except QapError as wrong:
            raise Verdict("does not recover", str(wrong)) from wrong
