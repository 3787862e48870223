"""A vhost-user-vsock device with a host in Python."""

import os
import struct
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.hw.pci_bus import PciBus
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.machine.spec import Spec
from qap.vhost_user.backends import backend
from qap.vhost_user.vsock import VsockHost
from qap.virtio.driver import Driver
from qap.virtio.pci_modern import VENDOR_ID, PciModern
from qap.virtio.vsock import BUF_ALLOC, ConnectionReset, Shutdown, Vsock

GUEST_CID = 42
PORT = 1234
SIZE = 5 * BUF_ALLOC + 7


def test_both_ends_hear_all_that_the_other_sends(tmp_path: Path) -> None:
    host = VsockHost(PORT, os.urandom(SIZE))
    config = struct.pack("<Q", GUEST_CID)
    path = tmp_path / "vsock"
    with backend(
        path, "vhost-user-vsock", access_platform=False, config=config, service=host
    ) as behind:
        spec = Spec(
            "q35",
            accel="qtest",
            memory=128,
            chardevs=[f"socket,id=vsock,path={path}"],
            devices=[{"driver": "vhost-user-vsock-pci", "chardev": "vsock"}],
            qtest=True,
        )
        with Machine(Build.under_test().path("qemu-system-x86_64"), spec) as machine:
            function = PciBus(machine.qtest).find(VENDOR_ID)
            driver = Driver(PciModern(function), GuestMemory(machine.qtest))
            assert driver.negotiate()
            vsock = Vsock(driver)
            assert vsock.guest_cid == GUEST_CID
            with pytest.raises(ConnectionReset):
                vsock.connect(PORT + 1, local=9)
            for turn in range(2):
                sent = os.urandom(SIZE)
                connection = vsock.connect(PORT, local=10 + turn)
                connection.send(sent)
                connection.shutdown(Shutdown.SEND)
                assert connection.read(SIZE + 1) == host.data
                assert bytes(host.heard) == sent
                connection.close()
            assert behind.ring_errors == []
