"""QEMU's own network, console and 9P devices: both directions, past the end of the rings."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from qap.hw.pci_bus import PciBus
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine
from qap.oracle.features import FeatureBit
from qap.verify.kit.checks import negotiated
from qap.verify.kit.lab import Lab
from qap.virtio import net, ninep, serial
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.net import Net
from qap.virtio.ninep import NineP, NinePError
from qap.virtio.pci_legacy import PciLegacy
from qap.virtio.pci_modern import VENDOR_ID
from qap.virtio.serial import Event, Serial
from qap.virtio.transport import VirtioError

MAC = "52:54:00:0a:0b:0c"
OURS = bytes.fromhex(MAC.replace(":", ""))
THEIRS = bytes.fromhex("525400ffeedd")
# More than fit in a queue of 64 entries, even with one descriptor each.
PAST_WRAP = 100
RINGS = {"split": (), "packed": (FeatureBit.RING_PACKED,)}


def frame(destination: bytes, source: bytes, number: int, size: int = 60) -> bytes:
    """An Ethernet frame of a local experimental type (IEEE 802, 9.2.3), with a number."""
    head = destination + source + b"\x88\xb5" + number.to_bytes(4)
    return head + os.urandom(size - len(head))


@pytest.fixture
def wire(lab: Lab) -> Callable[..., tuple[Machine, socket.socket]]:
    """A machine with virtio-net-pci, and a socket for its frames: one datagram each."""

    def start(**properties: object) -> tuple[Machine, socket.socket]:
        here, there = lab.folder / "here.sock", lab.folder / "there.sock"
        cable = lab.owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        cable.settimeout(10)
        cable.bind(str(here))
        netdev = (
            f"dgram,id=net0,local.type=unix,local.path={there},remote.type=unix,remote.path={here}"
        )
        device = {"driver": "virtio-net-pci", "id": "dut", "bus": "port0", "netdev": "net0"}
        machine = lab.machine(
            {**device, "mac": MAC, "packed": True, **properties},
            qtest=True,
            extra=["-netdev", netdev],
        )
        cable.connect(str(there))
        return machine, cable

    return start


@pytest.mark.parametrize("ring", RINGS)
def test_net_carries_frames_both_ways(
    wire: Callable[..., tuple[Machine, socket.socket]], ring: str
) -> None:
    machine, cable = wire()
    device = Net(negotiated(machine, net.FEATURE_MAC, *RINGS[ring]))
    assert device.driver.transport.device_type == net.DEVICE_TYPE
    assert device.driver.has(FeatureBit.RING_PACKED) == (ring == "packed")
    assert device.mac == OURS
    assert device.header_size == 12
    for number in range(PAST_WRAP):
        sent = frame(THEIRS, OURS, number, size=60 + 14 * number)
        device.send(sent)
        assert cable.recv(2048) == sent
        answer = frame(OURS, THEIRS, number, size=60 + 14 * number)
        cable.send(answer)
        assert device.receive() == answer


def test_net_header_is_shorter_through_the_legacy_interface(
    wire: Callable[..., tuple[Machine, socket.socket]],
) -> None:
    """10 bytes: num_buffers is there only with MRG_RXBUF (5.1.6)."""
    machine, cable = wire(**{"disable-legacy": "off"})
    transport = PciLegacy(PciBus(machine.qtest).find(VENDOR_ID))
    driver = Driver(transport, GuestMemory(machine.qtest), Behaviour(sets_features_ok=False))
    driver.negotiate()
    device = Net(driver)
    assert device.header_size == 10
    for number in range(device.transmitq.size + 10):
        sent, answer = frame(THEIRS, OURS, number), frame(OURS, THEIRS, number)
        device.send(sent)
        assert cable.recv(2048) == sent
        cable.send(answer)
        assert device.receive() == answer


def test_net_keeps_frames_until_they_are_read(
    wire: Callable[..., tuple[Machine, socket.socket]],
) -> None:
    machine, cable = wire()
    device = Net(negotiated(machine))
    frames = [frame(OURS, THEIRS, number) for number in range(6)]
    for sent in frames:
        cable.send(sent)
    assert [device.receive() for _ in frames] == frames


def test_net_puts_a_frame_together_from_several_buffers(
    wire: Callable[..., tuple[Machine, socket.socket]],
) -> None:
    """MRG_RXBUF: buffers of 512 bytes, and a frame that needs three (5.1.6.4)."""
    machine, cable = wire()
    device = Net(negotiated(machine, net.FEATURE_MRG_RXBUF), room=512)
    for number in range(PAST_WRAP):
        sent = frame(OURS, THEIRS, number, size=1400)
        cable.send(sent)
        assert device.receive() == sent


def test_net_without_a_frame_says_so(
    wire: Callable[..., tuple[Machine, socket.socket]],
) -> None:
    machine, cable = wire()
    device = Net(negotiated(machine))
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for a frame on queue 0"):
        device.receive(timeout=0.2)
    with pytest.raises(VirtioError, match="did not accept MAC"):
        device.mac  # noqa: B018
    device.driver.transport.reset()
    with pytest.raises(TimeoutError, match="queue 1 to be served"):
        device.send(frame(THEIRS, OURS, 0), timeout=0.2)
    cable.settimeout(0)
    with pytest.raises(BlockingIOError):
        cable.recv(2048)


@pytest.fixture
def lines(lab: Lab) -> Callable[..., tuple[Machine, list[socket.socket]]]:
    """A machine with virtio-serial-pci, a console at port 0 and a named port 1."""

    def start(ports: int, **properties: object) -> tuple[Machine, list[socket.socket]]:
        paths = [lab.folder / f"port{number}.sock" for number in range(ports)]
        listeners = [lab.listening(path) for path in paths]
        kinds: list[Device] = [
            {"driver": "virtconsole"},
            {"driver": "virtserialport", "name": "org.qap.test"},
        ]
        chardevs = [f"socket,id=line{n},path={path}" for n, path in enumerate(paths)]
        controller = {"driver": "virtio-serial-pci", "id": "dut", "bus": "port0"}
        machine = lab.machine(
            {**controller, "max_ports": 4, "packed": True, **properties},
            *({**kinds[n], "nr": n, "chardev": f"line{n}"} for n in range(ports)),
            qtest=True,
            extra=[word for chardev in chardevs for word in ("-chardev", chardev)],
        )
        ends = [lab.owned.enter_context(listener.accept()[0]) for listener in listeners]
        for end in ends:
            end.settimeout(10)
        return machine, ends

    return start


def received(end: socket.socket, size: int) -> bytes:
    """Receive this number of bytes, in any number of pieces."""
    data = b""
    while len(data) < size:
        piece = end.recv(size - len(data))
        assert piece, f"QEMU closed the line after {len(data)} bytes"
        data += piece
    return data


@pytest.mark.parametrize("ring", RINGS)
def test_serial_has_one_port_without_multiport(
    lines: Callable[..., tuple[Machine, list[socket.socket]]], ring: str
) -> None:
    machine, (end,) = lines(1)
    device = Serial(negotiated(machine, *RINGS[ring]))
    assert device.driver.transport.device_type == serial.DEVICE_TYPE
    assert device.max_ports == 1
    for _ in range(PAST_WRAP):
        out, back = os.urandom(50), os.urandom(70)
        device.ports[0].write(out)
        assert received(end, len(out)) == out
        end.sendall(back)
        assert device.ports[0].read(len(back)) == back


@pytest.mark.parametrize("ring", RINGS)
def test_serial_opens_ports_over_the_control_queues(
    lines: Callable[..., tuple[Machine, list[socket.socket]]], ring: str
) -> None:
    machine, ends = lines(2)
    device = Serial(negotiated(machine, serial.FEATURE_MULTIPORT, *RINGS[ring]), ports=2)
    assert device.max_ports == 4
    for number in device.ports:
        device.add(number)
        assert device.wait_for(Event.PORT_OPEN, number).value == 1
    device.wait_for(Event.CONSOLE_PORT, 0)
    device.wait_for(Event.PORT_NAME, 1)
    ports = device.ports.values()
    assert [(port.name, port.console, port.host_open) for port in ports] == [
        ("", True, True),
        ("org.qap.test", False, True),
    ]
    for _ in range(PAST_WRAP):
        for port, end in zip(ports, ends, strict=True):
            out, back = os.urandom(50), os.urandom(70)
            port.write(out)
            assert received(end, len(out)) == out
            end.sendall(back)
            assert port.read(len(back)) == back


def test_serial_hears_that_the_host_has_closed_a_port(
    lines: Callable[..., tuple[Machine, list[socket.socket]]],
) -> None:
    machine, ends = lines(2)
    device = Serial(negotiated(machine, serial.FEATURE_MULTIPORT), ports=2)
    port = device.add(1)
    device.wait_for(Event.PORT_OPEN, 1)
    ends[1].close()
    assert device.wait_for(Event.PORT_OPEN, 1).value == 0
    assert not port.host_open


def test_serial_control_handshake_is_in_order(
    lines: Callable[..., tuple[Machine, list[socket.socket]]],
) -> None:
    """A port gets its name only after the driver has sent PORT_READY (5.3.6.2)."""
    machine, ends = lines(2)
    device = Serial(negotiated(machine, serial.FEATURE_MULTIPORT), ports=2)
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for PORT_NAME of port 1 on queue 2"):
        device.wait_for(Event.PORT_NAME, 1, timeout=0.2)
    ends[1].sendall(b"early")
    with pytest.raises(TimeoutError, match="for byte 0 of 5 of port 1 on queue 4"):
        device.ports[1].read(5, timeout=0.2)
    device.add(1)
    assert device.ports[1].read(5) == b"early"


def test_serial_without_so_many_ports_says_so(
    lines: Callable[..., tuple[Machine, list[socket.socket]]],
) -> None:
    machine, _ = lines(1)
    with pytest.raises(VirtioError, match="at most 1 ports, not 2"):
        Serial(negotiated(machine), ports=2)


@pytest.fixture
def share(lab: Lab, tmp_path: Path) -> Machine:
    """A machine with a folder behind virtio-9p-pci."""
    device = {"driver": "virtio-9p-pci", "id": "dut", "bus": "port0", "fsdev": "fs0"}
    machine: Machine = lab.machine(
        {**device, "mount_tag": "qap-share", "packed": True},
        qtest=True,
        extra=["-fsdev", f"local,id=fs0,path={tmp_path},security_model=none"],
    )
    return machine


@pytest.mark.parametrize("ring", RINGS)
def test_9p_reads_and_writes_the_folder(share: Machine, tmp_path: Path, ring: str) -> None:
    device = NineP(negotiated(share, ninep.FEATURE_MOUNT_TAG, *RINGS[ring]))
    assert device.driver.transport.device_type == ninep.DEVICE_TYPE
    assert device.mount_tag == "qap-share"
    assert device.version() == "9P2000.L"
    device.attach(os.getuid())
    there, back = os.urandom(100 * PAST_WRAP), os.urandom(100 * PAST_WRAP)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "there").write_bytes(there)
    device.walk(ninep.ROOT, 1, "folder", "there")
    device.open(1)
    device.walk(ninep.ROOT, 2, "folder")
    device.create(2, "back", gid=os.getgid())
    for offset in range(0, len(there), 100):
        assert device.read(1, offset, 100) == there[offset : offset + 100]
        assert device.write(2, offset, back[offset : offset + 100]) == 100
    assert device.read(1, len(there), 100) == b""
    device.clunk(1)
    device.clunk(2)
    assert (tmp_path / "folder" / "back").read_bytes() == back


def test_9p_server_names_its_error(share: Machine, tmp_path: Path) -> None:
    device = NineP(negotiated(share))
    device.version()
    device.attach(os.getuid())
    for names in (("nothing",), ("folder", "nothing")):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(NinePError, match="Twalk: No such file or directory") as refused:
            device.walk(ninep.ROOT, 1, *names)
        assert refused.value.errno == errno.ENOENT
    with pytest.raises(VirtioError, match="did not accept MOUNT_TAG"):
        device.mount_tag  # noqa: B018


def test_9p_without_an_answer_says_so(share: Machine) -> None:
    device = NineP(negotiated(share), timeout=0.2)
    device.driver.transport.reset()
    with pytest.raises(TimeoutError, match=r"waited 0\.2 s for queue 0 to be served"):
        device.version()
