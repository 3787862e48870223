"""Control requests that name what is not there, or say too little."""

import resource
import struct
from collections.abc import Callable

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.catalog import vhost_user_types
from qap.machine.guest_memory import MIB, GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.checks import assert_lives
from qap.verify.kit.lab import Lab
from qap.virtio.driver import MODERN, Behaviour, Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.queue import Buffer
from qap.virtio.transport import Transport

Start = Callable[..., tuple[Machine, Transport]]

# 5.9.7: a header of opcode, algorithm, flag and queue, and what belongs to the opcode.
CRYPTO_CONTROL = struct.Struct("<IIII56x")
CIPHER_DESTROY_SESSION = 0x3
AKCIPHER_CREATE_SESSION = 0x404
RSA, PUBLIC_KEY = 1, 1
CRYPTO_ERR = 1
# What a QEMU has at start fits in, and a key of 4 GiB does not.
ADDRESS_SPACE = 4 << 30
FAR = 0x7FFF_FFF0
# 5.14.6.1
SND_S_BAD_MSG = 0x8001


def driver_of(machine: Machine) -> Driver:
    transport = PciModern(PciBus(machine.qtest).find(VENDOR_ID))
    driver = Driver(transport, GuestMemory(machine.qtest, 16 * MIB, 8 * MIB))
    driver.negotiate()
    return driver


def test_crypto_session_of_a_queue_that_is_not_there(lab: Lab) -> None:
    """5.9.7.2: queue_id names a data queue; the device has one."""
    backend = lab.backend("vhost-user-crypto", access_platform=True)
    device, words = vhost_user_types()["vhost-user-crypto"].pci(backend.path.stem)
    machine = lab.machine({**device, "id": "dut", "bus": "pcie.0"}, extra=words, qtest=True)
    driver = driver_of(machine)
    _, control = driver.queue(0), driver.queue(1)
    driver.start()
    request = driver.memory.put(CRYPTO_CONTROL.pack(CIPHER_DESTROY_SESSION, 1, 0, FAR))
    answer = Buffer(driver.memory.take(16), 16, writable=True)
    control.add([Buffer(request, CRYPTO_CONTROL.size), answer])
    driver.transport.notify(1)
    assert_lives(machine)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
def test_sound_command_that_is_short(start: Start, name: str, packed: bool) -> None:
    """5.14.6.1: there is no code in it, and so the message is a bad one. The ring goes on."""
    sound = ("-audiodev", "none,id=snd0")
    _, transport = start(name, "virtio-sound", (), sound, audiodev="snd0", packed=packed)
    supports = MODERN | mask([FeatureBit.RING_PACKED])
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(supports))
    driver.negotiate()
    queue = driver.queue(0, 16)
    driver.start()
    for size in [*range(1, 4)] * 10:
        answer = driver.memory.put(b"\xaa" * 4)
        command = [Buffer(driver.memory.take(4), size), Buffer(answer, 4, writable=True)]
        assert driver.serve(queue, command).length == 4
        assert struct.unpack("<I", driver.memory.read(answer, 4)) == (SND_S_BAD_MSG,)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("name", ["pci modern", "mmio 2"])
def test_crypto_key_that_is_longer_than_memory(start: Start, name: str, packed: bool) -> None:
    """5.9.7.2.1.4: a session of RSA. The length is the driver's; there is no such key."""
    words = ("-object", "cryptodev-backend-builtin,id=crypto0")
    machine, transport = start(name, "virtio-crypto", (), words, cryptodev="crypto0", packed=packed)
    supports = MODERN | mask([FeatureBit.RING_PACKED])
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(supports))
    driver.negotiate()
    _, control = driver.queue(0), driver.queue(1)
    driver.start()
    resource.prlimit(machine.process.pid, resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    session = (AKCIPHER_CREATE_SESSION, RSA, 0, 0, RSA, PUBLIC_KEY, 0xFFFF_FFFF)
    request = driver.memory.put(struct.pack("<7I44x", *session))
    answer = driver.memory.take(16)
    buffers = [Buffer(request, CRYPTO_CONTROL.size), Buffer(answer, 16, writable=True)]
    driver.serve(control, buffers)
    assert struct.unpack("<8xI", driver.memory.read(answer, 12)) == (CRYPTO_ERR,)
