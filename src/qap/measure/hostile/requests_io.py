"""Plausible requests of disks and network cards (virtio 1.3, 5.1, 5.2 and 5.6)."""

import struct
from random import Random

from qap.measure.hostile.request import Request, pick


def blk(random: Random) -> Request:
    kind = pick(random, 0, 0, 1, 1, 4, 8, 11, 13, 14, 15, 16, 17, 18, 20, 22, 24, 26)
    sector = pick(random, 0, 1, 7, 2047, 2048, width=64)
    head = struct.pack("<IIQ", kind, pick(random, 0), sector)
    size = random.choice((512, 512, 1024, 4096, 0, 511, 513, 20))
    if kind in (1, 11, 13, 14, 18):
        segment = struct.pack(
            "<QII", pick(random, 0, 8, width=64), pick(random, 0, 8, 2048), pick(random, 0, 1)
        )
        data = segment * random.choice((1, 2, 40)) if kind in (11, 13, 14) else bytes(size)
        return Request(0, (head, data), (1,))
    return Request(0, (head,), (size, 1) if random.random() < 0.9 else (1,))


def scsi(random: Random) -> Request:
    lun = bytes((1, pick(random, 0, 1, width=8), 0x40, pick(random, 0, 1, width=8), 0, 0, 0, 0))
    if random.random() < 0.25:
        kind = pick(random, 0, 0, 1, 2)
        if kind == 0:
            body = struct.pack("<II", 0, pick(random, *range(8))) + lun + struct.pack("<Q", 7)
            return Request(0, (body,), (1,))
        return Request(0, (struct.pack("<I", kind) + lun + struct.pack("<I", 2),), (5,))
    size = random.choice((512, 4096, 36, 255, 1))
    length = pick(random, 1, 8, width=16)
    block = pick(random, 0, 1, 2047)
    cdb = random.choice(
        (
            bytes((0x12, random.choice((0, 1)), pick(random, 0, 0x80, 0x83, width=8), 0, 255, 0)),
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
            pick(random, 0, 1, 2, width=8),
            pick(random, 0, 1, 3, 4, 5, 0x80, width=8),
            pick(random, 0, 54, 14, width=16),
            pick(random, 0, 1460, width=16),
            pick(random, 0, 14, 34, width=16),
            pick(random, 0, 6, 16, width=16),
            pick(random, 0, 1, width=16),
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
            bytes((0, pick(random, *range(6), width=8), pick(random, 0, 1, width=8))),
            bytes((1, 0)) + _macs(random) + _macs(random),
            bytes((1, 1)) + random.randbytes(6),
            bytes((2, pick(random, 0, 1, width=8))) + struct.pack("<H", pick(random, 1, width=16)),
            bytes((3, 0)),
            bytes((4, 0)) + struct.pack("<H", pick(random, 1, 2, width=16)),
            bytes((4, pick(random, 1, 2, width=8))) + _rss(random),
            bytes((5, 0)) + random.randbytes(8),
            random.randbytes(random.choice((1, 2, 3, 64))),
        )
    )
    out = (command[:2], command[2:] or b"\0") if random.random() < 0.8 else (command,)
    return Request(2, out, (1,))


def _macs(random: Random) -> bytes:
    count = random.choice((0, 1, 2, 64, 65))
    return struct.pack("<I", pick(random, count)) + bytes(6 * count)


def _rss(random: Random) -> bytes:
    entries = random.choice((1, 2, 128))
    head = struct.pack("<IHH", pick(random, 0x3F), pick(random, entries - 1, width=16), 0)
    tail = struct.pack("<HB", pick(random, 1, width=16), pick(random, 40, 0, width=8))
    return head + bytes(2 * entries) + tail + bytes(40)
