"""Requests that a virtio-crypto's back-end has while queue or device is reset or leaves."""

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.lab import Lab
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.queue import Buffer, Queue
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

Start = Callable[..., tuple[Machine, Transport]]
LIMITED = ("-object", "cryptodev-backend-builtin,id=crypto0,throttle-ops=1")
LOOKS = 64
# For what is under way for a second: few, as these take time, too.
FEW_LOOKS = 8
CRYPTO_CONTROLQ = 1
# 5.9.7: opcode and algorithm
CIPHER_CREATE = 2
AES_CBC = 3


def negotiated(transport: Transport, *extra: int) -> Driver:
    """A driver that accepts RING_RESET where it is offered."""
    supports = MODERN | mask([FeatureBit.RING_RESET, FeatureBit.RING_PACKED, *extra])
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(supports))
    driver.negotiate()
    return driver


@dataclass
class Crypto:
    """A virtio-crypto with a back-end that does one operation a second, and a session."""

    machine: Machine
    driver: Driver
    queue: Queue
    answer: int
    request: Sequence[Buffer]


@pytest.fixture
def crypto(start: Start) -> Crypto:
    device = {"cryptodev": "crypto0", "in_order": True}
    return throttled_crypto(*start("pci modern", "virtio-crypto", (), LIMITED, **device))


def throttled_crypto(machine: Machine, transport: Transport) -> Crypto:
    """A device that has done one operation, and will do the next one in a second."""
    driver = negotiated(transport, FeatureBit.IN_ORDER)
    memory = driver.memory
    control, queue = driver.queue(CRYPTO_CONTROLQ, 16), driver.queue(0, 16)
    driver.start()
    created = memory.take(16)
    create = struct.pack("<IIII IIII 32x II", CIPHER_CREATE, AES_CBC, 0, 0, AES_CBC, 16, 1, 0, 1, 0)
    driver.serve(control, [Buffer(memory.put(create + bytes(16)), 88), Buffer(created, 16, True)])
    (session,) = struct.unpack("<Q", memory.read(created, 8))
    work = struct.pack("<IIQII IIII 24x II", 0, AES_CBC, session, 0, 0, 16, 16, 16, 0, 1, 0)
    answer = memory.take(17)
    request = [Buffer(memory.put(work + bytes(32)), len(work) + 32), Buffer(answer, 17, True)]
    driver.serve(queue, request)
    assert memory.read(answer + 16, 1) == b"\0"
    memory.write(answer, b"\xaa" * 17)
    return Crypto(machine, driver, queue, answer, request)


def test_answer_is_not_written_after_a_queue_reset(crypto: Crypto) -> None:
    """2.6.1.1: the request waits in the back-end while its queue is reset."""
    driver, queue = crypto.driver, crypto.queue
    queue.add(crypto.request)
    driver.transport.notify(0)
    assert not any(queue.take_used() for _ in range(FEW_LOOKS))
    driver.transport.queue_reset(0)
    queue = driver.queue(0, 16)
    other = driver.memory.take(17)
    # One operation a second: when this one has been done, the one before has been.
    driver.serve(queue, [crypto.request[0], Buffer(other, 17, True)])
    assert driver.memory.read(crypto.answer, 17) == b"\xaa" * 17
    assert queue.take_used() is None


def test_answer_is_not_written_after_a_reset(crypto: Crypto) -> None:
    """2.4.1: the request waits in the back-end while the device is reset."""
    crypto.queue.add(crypto.request)
    crypto.driver.transport.notify(0)
    assert not any(crypto.queue.take_used() for _ in range(FEW_LOOKS))
    driver = negotiated(crypto.driver.transport)
    queue = driver.queue(0, 16)
    driver.start()
    for_two_seconds(crypto.machine)
    assert driver.memory.read(crypto.answer, 17) == b"\xaa" * 17
    assert queue.take_used() is None


def test_buffer_done_early_is_forgotten_at_a_reset(crypto: Crypto) -> None:
    """2.6.2: the second request is bad and done at once, the first one not before the reset."""
    driver, queue = crypto.driver, crypto.queue
    memory = driver.memory
    bad = [Buffer(memory.put(b"\xff" * 104), 104), Buffer(memory.take(17), 17, True)]
    queue.add(crypto.request)
    queue.add(bad)
    driver.transport.notify(0)
    assert not any(queue.take_used() for _ in range(FEW_LOOKS))
    driver = negotiated(driver.transport, FeatureBit.IN_ORDER)
    queue = driver.queue(0, 16)
    driver.start()
    for_two_seconds(crypto.machine)
    other = [Buffer(driver.memory.put(b"\xff" * 104), 104), crypto.request[1]]
    # As many as bring the device to the place of the one that was done early.
    for _ in range(3):
        driver.serve(queue, other)
        assert not any(queue.take_used() for _ in range(LOOKS))


@pytest.fixture
def freed_memory_is_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its use after the free is seen."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.perturb=85")


@pytest.mark.usefixtures("freed_memory_is_garbage")
def test_device_leaves_while_its_back_end_has_a_request(lab: Lab) -> None:
    """The back-end is done with it when there is no device any more."""
    device = {"driver": "virtio-crypto-pci", "id": "dut", "bus": "port0", "cryptodev": "crypto0"}
    machine = lab.machine(device, extra=LIMITED, qtest=True)
    crypto = throttled_crypto(machine, TRANSPORTS["pci modern"].connect(machine))
    crypto.queue.add(crypto.request)
    crypto.driver.transport.notify(0)
    assert not any(crypto.queue.take_used() for _ in range(FEW_LOOKS))
    qmp = crypto.machine.qmp
    qmp.execute("device_del", id="dut")
    qmp.execute("system_reset")
    qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", 10)
    for_two_seconds(crypto.machine)


def for_two_seconds(machine: Machine) -> None:
    """The back-end has a clock of its own."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert machine.alive
