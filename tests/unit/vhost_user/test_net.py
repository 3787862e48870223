"""The host behind a vhost-user-net."""

import struct

import pytest

from qap.vhost_user.chain_service import LATER
from qap.vhost_user.net import HEADER, NetHost
from qap.virtio.net import RECEIVEQ, TRANSMITQ

GUEST_MAC, GUEST, HOST = bytes(5) + b"\1", bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))
ROOM = 2048


def answer(frame: bytes) -> bytes | None:
    """What the driver gets for a frame, without the header."""
    host = NetHost()
    assert host(TRANSMITQ, HEADER + frame, 0) == b""
    got = host(RECEIVEQ, b"", ROOM)
    return got[len(HEADER) :] if isinstance(got, bytes) else None


def test_nothing_arrives_unasked() -> None:
    assert NetHost()(RECEIVEQ, b"", ROOM) is LATER


def test_arp_is_answered_for_its_own_address() -> None:
    def ask(address: bytes) -> bytes:
        start = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
        packet = start + GUEST_MAC + GUEST + bytes(6) + address
        return b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + packet + bytes(18)

    got = answer(ask(HOST))
    assert got is not None
    assert got[:6] == GUEST_MAC
    assert got[20:22] == b"\0\2"
    assert got[-10:] == GUEST_MAC + GUEST
    assert answer(ask(GUEST)) is None


@pytest.mark.parametrize(
    "frame",
    [
        bytes(12) + b"\x08\x06" + bytes(20),
        bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\1" + bytes(6) + HOST,
        b"",
    ],
    ids=["ARP", "ICMP", "nothing"],
)
def test_frame_that_is_cut_off_is_dropped(frame: bytes) -> None:
    assert answer(frame) is None


def test_echo_has_the_same_data_and_a_right_checksum() -> None:
    icmp = struct.pack(">BBHHH", 8, 0, 0, 7, 1) + b"odd number of bytes"
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0) + GUEST + HOST
    got = answer(bytes(6) + GUEST_MAC + b"\x08\x00" + head + icmp)
    assert got is not None
    assert got[26:34] == HOST + GUEST
    echo = got[34:]
    assert echo[0] == 0
    assert echo[4:] == icmp[4:]
    total = sum(struct.unpack(f">{(len(echo) + 1) // 2}H", echo + b"\0" * (len(echo) % 2)))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
