"""A host for vhost-user-net: it answers ARP and ICMP echo requests (RFC 826, RFC 792)."""

import struct
from collections import deque

from qap.vhost_user.chain_service import LATER, Later
from qap.virtio.net import MAC_SIZE, RECEIVEQ, TRANSMITQ

ADDRESS = bytes((10, 0, 2, 2))
MAC = bytes.fromhex("525400000002")
# virtio 1.3, 5.1.6: with VERSION_1 a header always has num_buffers, little-endian, and it is 1.
HEADER = bytes(10) + struct.pack("<H", 1)
ETHERNET, IPV4_MIN = 14, 20
ARP, IPV4, ICMP = 0x0806, 0x0800, 1
ARP_REQUEST, ARP_REPLY = 1, 2
ARP_SIZE = 28
ECHO, ECHO_REPLY = 8, 0


class NetHost:
    """A `ChainService` of a network card whose driver accepts VERSION_1.

    Attributes:
        echoed: bytes of ICMP that it has answered.
    """

    def __init__(self) -> None:
        self.echoed = 0
        self._queued: deque[bytes] = deque()

    def __call__(self, queue: int, readable: bytes, room: int) -> bytes | Later:
        """See `ChainService`."""
        if queue == TRANSMITQ:
            if answer := self._answer(readable[len(HEADER) :]):
                self._queued.append(answer)
            return b""
        if queue == RECEIVEQ and self._queued:
            return (HEADER + self._queued.popleft())[:room]
        return LATER

    def _answer(self, frame: bytes) -> bytes:
        """What comes of a frame; "" if nothing does."""
        if len(frame) < ETHERNET + IPV4_MIN:
            return b""
        sender = frame[MAC_SIZE : 2 * MAC_SIZE]
        (kind,) = struct.unpack_from(">H", frame, 2 * MAC_SIZE)
        packet = frame[ETHERNET:]
        answer = b""
        if kind == ARP:
            answer = _arp(packet)
        elif kind == IPV4 and packet[9] == ICMP and packet[16:20] == ADDRESS:
            answer = self._echo(packet)
        return sender + MAC + struct.pack(">H", kind) + answer if answer else b""

    def _echo(self, packet: bytes) -> bytes:
        (size,) = struct.unpack_from(">H", packet, 2)
        start = (packet[0] & 0xF) * 4
        data = packet[start + 4 : size]
        if len(packet) < start + 4 or packet[start] != ECHO:
            return b""
        self.echoed += len(data)
        icmp = struct.pack(">BBH", ECHO_REPLY, 0, 0) + data
        icmp = icmp[:2] + struct.pack(">H", _checksum(icmp)) + icmp[4:]
        # The checksum of a header with both addresses swapped is the same.
        return packet[:12] + packet[16:20] + packet[12:16] + packet[20:start] + icmp


def _arp(packet: bytes) -> bytes:
    if len(packet) < ARP_SIZE:
        return b""
    kind, hardware, address, asked = struct.unpack_from(">6xH6s4s6x4s", packet)
    if kind != ARP_REQUEST or asked != ADDRESS:
        return b""
    reply = struct.pack(">H", ARP_REPLY)
    return packet[:6] + reply + MAC + ADDRESS + bytes(hardware) + bytes(address)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
