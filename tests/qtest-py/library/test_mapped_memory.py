"""Guest memory that is mapped into this process."""

from qap.fork.build import Build
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.machine.mapped_memory import MappedMemory
from qap.virtio.driver import Driver
from qap.virtio.rng import Rng
from qap.virtio.transports import TRANSPORTS


def test_what_one_side_writes_the_other_reads() -> None:
    """Through qtest and through the mapping; a device uses the same memory."""
    variant = TRANSPORTS["pci modern"]
    with Machine(Build.under_test().path(variant.emulator), variant.spec("virtio-rng")) as machine:
        over_qtest = GuestMemory(machine.qtest)
        with MappedMemory.of(machine) as mapped:
            address = mapped.put(b"\x01\x02\x03\x04")
            assert over_qtest.read(address, 4) == b"\x01\x02\x03\x04"
            over_qtest.write(address, b"\x05\x06")
            assert mapped.read(address, 4) == b"\x05\x06\x03\x04"
            mapped.give_back()
            assert mapped.take(4) == address
            assert over_qtest.read(address, 4) == bytes(4)
            driver = Driver(variant.connect(machine), mapped)
            driver.negotiate()
            assert any(Rng(driver).read(64))
