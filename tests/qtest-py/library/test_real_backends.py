"""Real vhost-user back-ends: Debian's virtiofsd, and DPDK's testpmd, which translates."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qap.host.debian.loader import HOST
from qap.host.errors import QapError
from qap.host.wait import poll_until
from qap.machine.device import Device
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit
from qap.verify.kit.checks import negotiated
from qap.verify.kit.lab import Lab
from qap.vhost_user import programs, testpmd
from qap.vhost_user.programs import BackendProcess
from qap.virtio import fs, net, receive_queue
from qap.virtio.fs import Fs, FuseError
from qap.virtio.net import Net

MAC = "52:54:00:0a:0b:0c"
OURS = bytes.fromhex(MAC.replace(":", ""))
THEIRS = bytes.fromhex("525400ffeedd")
# More than fit in a queue of 64 entries, even with one descriptor each.
PAST_WRAP = 100
RINGS = {"split": (), "packed": (FeatureBit.RING_PACKED,)}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder on the host that is shared."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def share(lab: Lab, shared: Path) -> Machine:
    """A machine with that folder behind vhost-user-fs-pci, which wants ACCESS_PLATFORM."""
    service = lab.owned.enter_context(programs.virtiofsd(lab.folder, shared, HOST, "fs"))
    device = {"driver": "vhost-user-fs-pci", "id": "dut", "bus": "port0", "chardev": "fs"}
    machine: Machine = lab.machine(
        {**device, "tag": "qap-share", "iommu_platform": True},
        qtest=True,
        extra=["-chardev", f"socket,id=fs,path={service.socket}"],
    )
    return machine


def mounted(machine: Machine) -> Fs:
    """The file system, after INIT."""
    device = Fs(negotiated(machine), owner=(os.getuid(), os.getgid()))
    assert device.init() >= (fs.MAJOR, fs.MINOR)
    return device


def test_virtiofsd_reads_and_writes_the_folder(share: Machine, shared: Path) -> None:
    device = mounted(share)
    assert device.driver.transport.device_type == fs.DEVICE_TYPE
    assert device.driver.has(FeatureBit.ACCESS_PLATFORM)
    assert (device.tag, device.num_request_queues) == ("qap-share", 1)
    there, back = os.urandom(100 * PAST_WRAP), os.urandom(100 * PAST_WRAP)
    (shared / "there").write_bytes(there)
    source = device.lookup(fs.ROOT, "there")
    assert source.size == len(there)
    reading = device.open(source.nodeid)
    target, writing = device.create(fs.ROOT, "back")
    for offset in range(0, len(there), 100):
        piece = back[offset : offset + 100]
        assert device.read(source.nodeid, reading, offset, 100) == there[offset : offset + 100]
        assert device.write(target.nodeid, writing, offset, piece) == len(piece)
    assert device.read(source.nodeid, reading, len(there), 100) == b""
    device.release(source.nodeid, reading)
    device.release(target.nodeid, writing)
    assert (shared / "back").read_bytes() == back


def test_virtiofsd_forgets_what_was_looked_up(share: Machine, shared: Path) -> None:
    """Past the end of the hiprio queue; after that the node id is invalid."""
    device = mounted(share)
    (shared / "there").touch()
    for _ in range(PAST_WRAP):
        entry = device.lookup(fs.ROOT, "there")
        device.release(entry.nodeid, device.open(entry.nodeid))
        device.forget(entry.nodeid)
        with pytest.raises(FuseError, match="FUSE OPEN: Bad file descriptor"):
            device.open(entry.nodeid)


def test_virtiofsd_names_its_error(share: Machine) -> None:
    device = mounted(share)
    with pytest.raises(FuseError, match="FUSE LOOKUP: No such file or directory") as refused:
        device.lookup(fs.ROOT, "nothing")
    assert refused.value.errno == errno.ENOENT


def test_virtiofsd_without_an_answer_says_so(share: Machine) -> None:
    device = Fs(negotiated(share), timeout=0.2)
    device.driver.transport.reset()
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for queue 1 to be served"):
        device.init()
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for queue 0 to be served"):
        device.forget(fs.ROOT)


@pytest.fixture
def forwarder(lab: Lab) -> Callable[[bool], BackendProcess]:
    """Starts testpmd."""

    def start(access_platform: bool) -> BackendProcess:
        started = testpmd.testpmd(lab.folder, "net", access_platform=access_platform)
        service: BackendProcess = lab.owned.enter_context(started)
        return service

    return start


def card(service: BackendProcess) -> dict[str, Any]:
    """Options for virtio-net-pci with ACCESS_PLATFORM in front of testpmd."""
    chardev = f"socket,id=net,path={service.socket}"
    return {"extra": ["-chardev", chardev, "-netdev", "vhost-user,id=net0,chardev=net"]}


DEVICE: Device = {
    "driver": "virtio-net-pci",
    "id": "dut",
    "bus": "port0",
    "netdev": "net0",
    "mac": MAC,
    "packed": True,
    "iommu_platform": True,
}


def told(service: BackendProcess) -> list[int]:
    """The feature words that testpmd logs as received, in order."""
    said = re.findall(r"negotiated Virtio features: (0x[0-9a-f]+)", service.process.log.read_text())
    return [int(word, 16) for word in said]


def frame(destination: bytes, source: bytes, number: int, payload: bytes) -> bytes:
    """An Ethernet frame of a local experimental type (IEEE 802, 9.2.3), with a number."""
    return destination + source + b"\x88\xb5" + number.to_bytes(4) + payload


def answer(device: Net, number: int, timeout: float) -> bytes:
    """Wait for frame `number` to come back; earlier frames are skipped."""
    while int.from_bytes((came := device.receive(timeout))[14:18]) < number:
        pass
    return came


def until_it_comes_back(device: Net, number: int) -> None:
    """Repeat a long frame until it comes back: testpmd may drop frames on an IOTLB miss."""
    payload = os.urandom(1400)

    def once() -> bytes | None:
        device.send(frame(THEIRS, OURS, number, payload))
        try:
            return answer(device, number, timeout=0.1)
        except TimeoutError:
            return None

    came = poll_until(once, 20, lambda: f"frame {number} to come back")
    assert came == frame(OURS, THEIRS, number, payload)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(
    ("viommu", "access_platform"), [("none", False), ("none", True), ("intel-iommu", True)]
)
def test_testpmd_sends_frames_back(
    lab: Lab,
    forwarder: Callable[[bool], BackendProcess],
    viommu: str,
    access_platform: bool,
    ring: str,
) -> None:
    """The driver always accepts the bit; the back-end gets it only if addresses are translated."""
    service = forwarder(access_platform)
    machine = lab.machine(DEVICE, viommu=viommu, qtest=True, **card(service))
    device = Net(negotiated(machine, net.FEATURE_MAC, *RINGS[ring]))
    assert device.driver.has(FeatureBit.ACCESS_PLATFORM)
    assert device.driver.has(FeatureBit.RING_PACKED) == (ring == "packed")
    assert device.mac == OURS
    translates = viommu != "none"
    # As many frames as receive buffers: after them, all addresses are translated.
    first = receive_queue.COUNT if translates else 0
    for number in range(first):
        until_it_comes_back(device, number)
    for number in range(first, first + PAST_WRAP):
        payload = os.urandom(42 + 13 * number)
        device.send(frame(THEIRS, OURS, number, payload))
        assert answer(device, number, timeout=10) == frame(OURS, THEIRS, number, payload)
    words = told(service)
    assert words
    assert [word >> FeatureBit.ACCESS_PLATFORM & 1 for word in words] == [translates] * len(words)


def test_testpmd_that_can_not_translate_is_refused_behind_an_iommu(
    lab: Lab, forwarder: Callable[[bool], BackendProcess]
) -> None:
    service = forwarder(False)
    said = lab.cold_refusal(DEVICE, viommu="intel-iommu", **card(service))
    assert "iommu_platform=true is not supported by the device" in said
    assert not told(service)


def test_card_loses_its_link_with_testpmd(
    lab: Lab, forwarder: Callable[[bool], BackendProcess]
) -> None:
    service = forwarder(True)
    machine = lab.machine(DEVICE, qtest=True, **card(service))
    device = Net(negotiated(machine, net.FEATURE_STATUS))
    assert device.link_up
    service.process.end()
    poll_until(lambda: None if device.link_up else True, 10, lambda: "the link to go down")
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for a frame on queue 0"):
        device.receive(timeout=0.2)


def test_testpmd_without_its_card_says_so(lab: Lab) -> None:
    """A comma in its socket's name ends that argument."""
    with (
        pytest.raises(QapError, match="dpdk-testpmd came up without its card") as ended,
        testpmd.testpmd(lab.folder, "net,work"),
    ):
        pass
    assert "EAL: " in ended.value.detail


def test_testpmd_that_ends_at_once_says_why(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testpmd, "MEMORY_MIB", 8)
    with (
        pytest.raises(QapError, match="dpdk-testpmd ended before its prompt") as ended,
        testpmd.testpmd(lab.folder, "net"),
    ):
        pass
    assert "Cannot allocate memory" in ended.value.detail
