"""Plausible requests of each device type, some of their fields damaged (virtio 1.3, section 5)."""

import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from qap.iommu import virtio_iommu_requests as iommu

U32 = 0xFFFF_FFFF


class Request(NamedTuple):
    """A request: its queue, what the device reads, in pieces, and the sizes of what it writes."""

    queue: int
    out: tuple[bytes, ...] = ()
    room: tuple[int, ...] = ()


Draw = Callable[[Random], Request]


def _any(random: Random, *usual: int, width: int = 32) -> int:
    """Mostly a usual value, or else one at an edge, or any."""
    edges = (0, 1, (1 << width) - 1, 1 << width - 1, (1 << width - 1) - 1)
    kind = random.random()
    if kind < 0.75:
        return random.choice(usual or edges)
    return random.choice(edges) if kind < 0.9 else random.getrandbits(width)


def blk(random: Random) -> Request:
    kind = _any(random, 0, 0, 1, 1, 4, 8, 11, 13, 14, 15, 16, 17, 18, 20, 22, 24, 26)
    sector = _any(random, 0, 1, 7, 2047, 2048, width=64)
    head = struct.pack("<IIQ", kind, _any(random, 0), sector)
    size = random.choice((512, 512, 1024, 4096, 0, 511, 513, 20))
    if kind in (1, 11, 13, 14, 18):
        segment = struct.pack(
            "<QII", _any(random, 0, 8, width=64), _any(random, 0, 8, 2048), _any(random, 0, 1)
        )
        data = segment * random.choice((1, 2, 40)) if kind in (11, 13, 14) else bytes(size)
        return Request(0, (head, data), (1,))
    return Request(0, (head,), (size, 1) if random.random() < 0.9 else (1,))


def scsi(random: Random) -> Request:
    lun = bytes((1, _any(random, 0, 1, width=8), 0x40, _any(random, 0, 1, width=8), 0, 0, 0, 0))
    if random.random() < 0.25:
        kind = _any(random, 0, 0, 1, 2)
        if kind == 0:
            body = struct.pack("<II", 0, _any(random, *range(8))) + lun + struct.pack("<Q", 7)
            return Request(0, (body,), (1,))
        return Request(0, (struct.pack("<I", kind) + lun + struct.pack("<I", 2),), (5,))
    size = random.choice((512, 4096, 36, 255, 1))
    length = _any(random, 1, 8, width=16)
    block = _any(random, 0, 1, 2047)
    cdb = random.choice(
        (
            bytes((0x12, random.choice((0, 1)), _any(random, 0, 0x80, 0x83, width=8), 0, 255, 0)),
            struct.pack(">BBIBHB", 0x28, 0, block, 0, length, 0),
            struct.pack(">BBIBHB", 0x2A, 0, block, 0, length, 0),
            struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0),
            struct.pack(">BBQIBB", 0x93, 8, block, length, 0, 0),
            struct.pack(">BBHIBHB", 0x42, 0, 0, 0, 0, 24, 0),
            bytes((0xA0, 0, 0, 0, 0, 0)) + struct.pack(">I", 4096) + bytes(2),
            bytes((0x1A, 0, 0x3F, 0, 255, 0)),
            bytes((0x15, 0x10, 0, 0, 24, 0)),
            bytes((0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 255, 0)),
            bytes((0x00,) * 6),
            bytes((0x35,)) + bytes(9),
            random.randbytes(16),
        )
    ).ljust(32, b"\0")
    head = lun + struct.pack("<QBBB", random.getrandbits(64), 0, 0, 0) + cdb
    if random.random() < 0.1:
        head = head[: random.randrange(len(head))]
    if cdb[0] in (0x2A, 0x93, 0x42, 0x15):
        return Request(2, (head, bytes(size)), (108,))
    return Request(2, (head,), (108, size))


def net(random: Random) -> Request:
    kind = random.random()
    if kind < 0.3:
        return Request(0, (), (random.choice((12, 10, 64, 1526, 4096)),))
    if kind < 0.65:
        head = struct.pack(
            "<BBHHHHH",
            _any(random, 0, 1, 2, width=8),
            _any(random, 0, 1, 3, 4, 5, 0x80, width=8),
            _any(random, 0, 54, 14, width=16),
            _any(random, 0, 1460, width=16),
            _any(random, 0, 14, 34, width=16),
            _any(random, 0, 6, 16, width=16),
            _any(random, 0, 1, width=16),
        )
        frame = b"\xff" * 6 + bytes.fromhex("525400000001")
        frame += random.choice((b"\x08\x00\x45", b"\x86\xdd\x60", b"\x81\x00", b"\x08\x06\x00\x01"))
        frame += random.randbytes(random.choice((0, 1, 20, 60, 1500, 4000)))
        cut = random.choice((len(frame), len(frame), 0, 6, 13, 14))
        return Request(
            1, (head[: random.choice((12, 12, 10, 5, 0))] or b"\0", frame[:cut] or b"\0")
        )
    command = random.choice(
        (
            bytes((0, _any(random, *range(6), width=8), _any(random, 0, 1, width=8))),
            bytes((1, 0)) + _macs(random) + _macs(random),
            bytes((1, 1)) + random.randbytes(6),
            bytes((2, _any(random, 0, 1, width=8))) + struct.pack("<H", _any(random, 1, width=16)),
            bytes((3, 0)),
            bytes((4, 0)) + struct.pack("<H", _any(random, 1, 2, width=16)),
            bytes((4, _any(random, 1, 2, width=8))) + _rss(random),
            bytes((5, 0)) + random.randbytes(8),
            random.randbytes(random.choice((1, 2, 3, 64))),
        )
    )
    out = (command[:2], command[2:] or b"\0") if random.random() < 0.8 else (command,)
    return Request(2, out, (1,))


def _macs(random: Random) -> bytes:
    count = random.choice((0, 1, 2, 64, 65))
    return struct.pack("<I", _any(random, count)) + bytes(6 * count)


def _rss(random: Random) -> bytes:
    entries = random.choice((1, 2, 128))
    head = struct.pack("<IHH", _any(random, 0x3F), _any(random, entries - 1, width=16), 0)
    tail = struct.pack("<HB", _any(random, 1, width=16), _any(random, 40, 0, width=8))
    return head + bytes(2 * entries) + tail + bytes(40)


def rng(random: Random) -> Request:
    return Request(0, (), (random.choice((1, 16, 64, 4096)),))


def serial(random: Random) -> Request:
    queue = random.choice((2, 3, 3, 0, 1, 4, 5))
    if queue == 3:
        port, event = _any(random, 0, 1, 30, 31), _any(random, *range(9), width=16)
        body = struct.pack("<IHH", port, event, _any(random, 0, 1, width=16))
        return Request(3, (body + random.randbytes(random.choice((0, 0, 8))),))
    if queue in (1, 5):
        return Request(queue, (random.randbytes(64),))
    return Request(queue, (), (64,))


def balloon(random: Random) -> Request:
    queue = random.choice((0, 0, 1, 2, 3, 4))
    if queue == 2:
        stats = b"".join(
            struct.pack("<HQ", _any(random, *range(10), width=16), random.getrandbits(64))
            for _ in range(random.choice((1, 10, 100)))
        )
        return Request(2, (stats + bytes(random.choice((0, 0, 1, 9))),))
    if queue in (3, 4):
        out = (struct.pack("<I", _any(random, 0, 1, 2)),) if random.random() < 0.5 else ()
        return Request(queue, out, (4096, 4096))
    # Far above RAM, or pages that its driver gave: see moves_requests.
    numbers = [1 << 20 | random.getrandbits(20) for _ in range(random.choice((1, 2, 256, 300)))]
    return Request(queue, (struct.pack(f"<{len(numbers)}I", *numbers),))


def ninep(random: Random) -> Request:
    fid = _any(random, 0, 1, 2)
    name = b"\x05\x00share"
    bodies = {
        100: struct.pack("<I", _any(random, 8192)) + b"\x08\x009P2000.L",
        104: struct.pack("<II", fid, U32) + b"\0\0" + name[:2] + name[2:] + struct.pack("<I", 0),
        110: struct.pack("<IIH", fid, _any(random, 1, 2), _any(random, 0, 1, 16, 17, width=16)),
        12: struct.pack("<II", fid, _any(random, 0, 0x10000)),
        116: struct.pack("<IQI", fid, _any(random, 0, width=64), _any(random, 4096, 8192)),
        118: struct.pack("<IQI", fid, _any(random, 0, width=64), _any(random, 4, 8192)) + bytes(4),
        40: struct.pack("<IQI", fid, _any(random, 0, width=64), _any(random, 512, 8192)),
        24: struct.pack("<IQ", fid, _any(random, 0x7FF, width=64)),
        120: struct.pack("<I", fid),
        108: struct.pack("<H", _any(random, 1, width=16)),
        30: struct.pack("<II", fid, _any(random, 3)) + name,
        8: struct.pack("<I", fid),
        22: struct.pack("<I", fid),
    }
    kind = _any(random, *bodies, width=8)
    body = bodies.get(kind) or random.randbytes(16)
    size = _any(random, 7 + len(body))
    head = struct.pack("<IBH", size, kind, _any(random, 1, 0xFFFF, width=16))
    return Request(0, (head + body,), (random.choice((8192, 64, 11, 7, 1)),))


def gpu(random: Random) -> Request:
    resource = _any(random, 0, 1, 2)
    edge = _any(random, 64, 1024, 16384)
    rect = struct.pack("<IIII", _any(random, 0, 8), _any(random, 0, 8), edge, _any(random, 64))
    count = _any(random, 1, 2)
    bodies = {
        0x100: b"",
        0x101: struct.pack("<IIII", resource, _any(random, 1, 2, 3, 67), edge, _any(random, 64)),
        0x102: struct.pack("<II", resource, 0),
        0x103: rect + struct.pack("<II", _any(random, 0, 1, 16), resource),
        0x104: rect + struct.pack("<II", resource, 0),
        0x105: rect + struct.pack("<QII", _any(random, 0, width=64), resource, 0),
        0x106: struct.pack("<II", resource, count)
        + struct.pack("<QII", _any(random, 17 << 20, width=64), _any(random, 4096, 65536), 0) * 2,
        0x107: struct.pack("<II", resource, 0),
        0x108: struct.pack("<II", _any(random, 0, 1), 0),
        0x109: struct.pack("<II", _any(random, 0, 1), 0),
        0x10A: struct.pack("<II", _any(random, 0, 1, 16), 0),
        0x10B: struct.pack("<II", resource, 0),
        0x10C: struct.pack("<IIIIQQ", resource, 2, 0, 1, 0, 4096) + bytes(16),
        0x10D: rect + bytes(48),
        0x300: struct.pack("<IIIIIIII", 0, 5, 5, 0, resource, 1, 1, 0),
    }
    kind = _any(random, *bodies)
    head = struct.pack("<IIQII", kind, _any(random, 0, 1), 7, _any(random, 0), 0)
    body = bodies.get(kind, random.randbytes(32))
    if random.random() < 0.1:
        body = body[: random.randrange(len(body) + 1)]
    return Request(1 if kind & 0x300 == 0x300 else 0, (head + body,), (random.choice((24, 408)),))


def input_(random: Random) -> Request:
    event = struct.pack("<HHI", _any(random, 0x11, 0, width=16), _any(random, 0, width=16), 1)
    return Request(1, (event,)) if random.random() < 0.6 else Request(0, (), (8,))


def crypto(random: Random) -> Request:
    data, control = 0, 1
    if random.random() < 0.5:
        opcode = _any(random, 0x0002, 0x0003, 0x0102, 0x0202, 0x0302, 0x0404, 0x0405)
        head = struct.pack("<IIII", opcode, _any(random, 1, 3), 0, 0)
        keylen = _any(random, 16, 24, 32, 0)
        body = struct.pack("<IIII", _any(random, 1, 2, 3), keylen, _any(random, 1, 2), 0)
        body = body.ljust(48, b"\0") + struct.pack("<II", _any(random, 1, 2), 0)
        return Request(control, (head + body, bytes(random.choice((16, 32, 1)))), (16,))
    head = struct.pack(
        "<IIQII",
        _any(random, 0x0000, 0x0001, 0x0100, 0x0400),
        3,
        _any(random, 0, 1, width=64),
        0,
        0,
    )
    lengths = [_any(random, 16, 0, 64) for _ in range(4)]
    body = struct.pack("<IIII", *lengths).ljust(40, b"\0") + struct.pack("<II", 1, 0)
    return Request(data, (head + body, bytes(16), bytes(64)), (random.choice((64, 16)), 1))


def mem(random: Random) -> Request:
    kind = _any(random, 0, 1, 2, 3, width=16)
    address = _any(random, 1 << 32, (1 << 32) + (2 << 20), width=64)
    body = struct.pack("<QH", address, _any(random, 1, 2, 32, width=16))
    return Request(0, (struct.pack("<HHHH", kind, 0, 0, 0) + body + bytes(6),), (10,))


def pmem(random: Random) -> Request:
    return Request(0, (struct.pack("<I", _any(random, 0)),), (4,))


def sound(random: Random) -> Request:
    stream = _any(random, 0, 1)
    queue = random.choice((0, 0, 0, 1, 2, 3))
    if queue == 2:
        return Request(
            2, (struct.pack("<I", stream), bytes(random.choice((0, 1, 4096))) or b"\0"), (8,)
        )
    if queue == 3:
        return Request(3, (struct.pack("<I", stream),), (4096, 8))
    if queue == 1:
        return Request(1, (), (8,))
    kind = _any(random, 1, 2, 0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x200)
    if kind in (1, 2, 0x100, 0x200):
        body = struct.pack("<III", _any(random, 0, 1), _any(random, 1, 2), _any(random, 32, 24))
        return Request(0, (struct.pack("<I", kind) + body,), (4, 512))
    body = struct.pack("<I", stream)
    if kind == 0x101:
        body += struct.pack("<III", _any(random, 4096), _any(random, 1024), 0)
        body += bytes((_any(random, 1, 2, width=8), _any(random, 5, width=8), 7, 0))
    return Request(0, (struct.pack("<I", kind) + body,), (4,))


def viommu(random: Random) -> Request:
    domain, endpoint = _any(random, 1, 2), _any(random, 8, 0xE8)
    start = _any(random, 0, 4096, 1 << 32, width=64)
    end = (start + 4095) % (1 << 64)
    bodies = {
        1: iommu.ATTACH.pack(domain, endpoint, _any(random, 0, 1)),
        2: iommu.DETACH.pack(domain, endpoint),
        3: iommu.MAP.pack(
            domain, start, _any(random, end, width=64), 17 << 20, _any(random, 1, 3, 7)
        ),
        4: iommu.UNMAP.pack(domain, start, _any(random, end, width=64)),
        5: iommu.PROBE.pack(endpoint),
    }
    kind = _any(random, *bodies, width=8)
    head = iommu.HEAD.pack(kind)
    room = 4 + (512 if kind == 5 else 0)
    return Request(0, (head + bodies.get(kind, bytes(16)),), (random.choice((room, room, 1, 64)),))


def generic(random: Random) -> Request:
    queue = random.choice((0, 1, 2))
    out = (random.randbytes(random.choice((8, 16, 40, 64))),)
    return Request(queue, out, random.choice(((), (16,), (4, 128))))


DRAWS: Mapping[str, Draw] = {
    "virtio-blk": blk,
    "virtio-net": net,
    "virtio-rng": rng,
    "virtio-serial": serial,
    "virtio-scsi": scsi,
    "virtio-balloon": balloon,
    "virtio-9p": ninep,
    "virtio-gpu": gpu,
    "virtio-vga": gpu,
    "virtio-keyboard": input_,
    "virtio-mouse": input_,
    "virtio-tablet": input_,
    "virtio-multitouch": input_,
    "virtio-crypto": crypto,
    "virtio-mem": mem,
    "virtio-pmem": pmem,
    "virtio-sound": sound,
    "virtio-iommu": viommu,
    "vhost-user-blk": blk,
    "vhost-user-scsi": scsi,
    "vhost-user-net": net,
    "vhost-user-gpu": gpu,
    "vhost-user-vga": gpu,
    "vhost-user-snd": sound,
    "vhost-user-crypto": crypto,
}


def request(device: str, random: Random) -> Request:
    """A request that a device of this type knows, more or less."""
    return DRAWS.get(device, generic)(random)
