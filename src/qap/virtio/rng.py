"""An entropy device's driver (virtio 1.3, section 5.4)."""

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 4
REQUESTQ = 0


class Rng:
    """Entropy from a device whose features are negotiated; sets DRIVER_OK."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.requestq = driver.queue(REQUESTQ)
        driver.start()

    def read(self, size: int, timeout: float = SERVED_S) -> bytes:
        """At most `size` random bytes: as many as the device wrote into one buffer.

        Raises:
            TimeoutError: the device did not serve the buffer.
            VirtioError: it wrote nothing, or more than there is room for (5.4.6).
        """
        memory = self.driver.memory
        address = memory.take(size)
        used = self.driver.serve(self.requestq, [Buffer(address, size, writable=True)], timeout)
        if not 0 < used.length <= size:
            raise VirtioError(f"the entropy device wrote {used.length} bytes of {size}")
        return memory.read(address, used.length)
