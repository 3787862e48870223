"""Plausible requests of each device type, some of their fields damaged (virtio 1.3, section 5)."""

import struct
from collections.abc import Mapping
from random import Random

from qap.iommu import virtio_iommu_requests as iommu
from qap.measure.hostile.request import Draw, Request, pick
from qap.measure.hostile.requests_io import blk, net, scsi

U32 = 0xFFFF_FFFF


def rng(random: Random) -> Request:
    return Request(0, (), (random.choice((1, 16, 64, 4096)),))


def serial(random: Random) -> Request:
    queue = random.choice((2, 3, 3, 0, 1, 4, 5))
    if queue == 3:
        port, event = pick(random, 0, 1, 30, 31), pick(random, *range(9), width=16)
        body = struct.pack("<IHH", port, event, pick(random, 0, 1, width=16))
        return Request(3, (body + random.randbytes(random.choice((0, 0, 8))),))
    if queue in (1, 5):
        return Request(queue, (random.randbytes(64),))
    return Request(queue, (), (64,))


def balloon(random: Random) -> Request:
    queue = random.choice((0, 0, 1, 2, 3, 4))
    if queue == 2:
        stats = b"".join(
            struct.pack("<HQ", pick(random, *range(10), width=16), random.getrandbits(64))
            for _ in range(random.choice((1, 10, 100)))
        )
        return Request(2, (stats + bytes(random.choice((0, 0, 1, 9))),))
    if queue in (3, 4):
        out = (struct.pack("<I", pick(random, 0, 1, 2)),) if random.random() < 0.5 else ()
        return Request(queue, out, (4096, 4096))
    # Far above RAM, or pages that its driver gave: see moves_requests.
    numbers = [1 << 20 | random.getrandbits(20) for _ in range(random.choice((1, 2, 256, 300)))]
    return Request(queue, (struct.pack(f"<{len(numbers)}I", *numbers),))


def ninep(random: Random) -> Request:
    fid = pick(random, 0, 1, 2)
    name = b"\x05\x00share"
    bodies = {
        100: struct.pack("<I", pick(random, 8192)) + b"\x08\x009P2000.L",
        104: struct.pack("<II", fid, U32) + b"\0\0" + name[:2] + name[2:] + struct.pack("<I", 0),
        110: struct.pack("<IIH", fid, pick(random, 1, 2), pick(random, 0, 1, 16, 17, width=16)),
        12: struct.pack("<II", fid, pick(random, 0, 0x10000)),
        116: struct.pack("<IQI", fid, pick(random, 0, width=64), pick(random, 4096, 8192)),
        118: struct.pack("<IQI", fid, pick(random, 0, width=64), pick(random, 4, 8192)) + bytes(4),
        40: struct.pack("<IQI", fid, pick(random, 0, width=64), pick(random, 512, 8192)),
        24: struct.pack("<IQ", fid, pick(random, 0x7FF, width=64)),
        120: struct.pack("<I", fid),
        108: struct.pack("<H", pick(random, 1, width=16)),
        30: struct.pack("<II", fid, pick(random, 3)) + name,
        8: struct.pack("<I", fid),
        22: struct.pack("<I", fid),
    }
    kind = pick(random, *bodies, width=8)
    body = bodies.get(kind) or random.randbytes(16)
    size = pick(random, 7 + len(body))
    head = struct.pack("<IBH", size, kind, pick(random, 1, 0xFFFF, width=16))
    return Request(0, (head + body,), (random.choice((8192, 64, 11, 7, 1)),))


def gpu(random: Random) -> Request:
    resource = pick(random, 0, 1, 2)
    edge = pick(random, 64, 1024, 16384)
    rect = struct.pack("<IIII", pick(random, 0, 8), pick(random, 0, 8), edge, pick(random, 64))
    count = pick(random, 1, 2)
    bodies = {
        0x100: b"",
        0x101: struct.pack("<IIII", resource, pick(random, 1, 2, 3, 67), edge, pick(random, 64)),
        0x102: struct.pack("<II", resource, 0),
        0x103: rect + struct.pack("<II", pick(random, 0, 1, 16), resource),
        0x104: rect + struct.pack("<II", resource, 0),
        0x105: rect + struct.pack("<QII", pick(random, 0, width=64), resource, 0),
        0x106: struct.pack("<II", resource, count)
        + struct.pack("<QII", pick(random, 17 << 20, width=64), pick(random, 4096, 65536), 0) * 2,
        0x107: struct.pack("<II", resource, 0),
        0x108: struct.pack("<II", pick(random, 0, 1), 0),
        0x109: struct.pack("<II", pick(random, 0, 1), 0),
        0x10A: struct.pack("<II", pick(random, 0, 1, 16), 0),
        0x10B: struct.pack("<II", resource, 0),
        0x10C: struct.pack("<IIIIQQ", resource, 2, 0, 1, 0, 4096) + bytes(16),
        0x10D: rect + bytes(48),
        0x300: struct.pack("<IIIIIIII", 0, 5, 5, 0, resource, 1, 1, 0),
    }
    kind = pick(random, *bodies)
    head = struct.pack("<IIQII", kind, pick(random, 0, 1), 7, pick(random, 0), 0)
    body = bodies.get(kind, random.randbytes(32))
    if random.random() < 0.1:
        body = body[: random.randrange(len(body) + 1)]
    return Request(1 if kind & 0x300 == 0x300 else 0, (head + body,), (random.choice((24, 408)),))


def input_(random: Random) -> Request:
    event = struct.pack("<HHI", pick(random, 0x11, 0, width=16), pick(random, 0, width=16), 1)
    return Request(1, (event,)) if random.random() < 0.6 else Request(0, (), (8,))


def crypto(random: Random) -> Request:
    data, control = 0, 1
    if random.random() < 0.5:
        opcode = pick(random, 0x0002, 0x0003, 0x0102, 0x0202, 0x0302, 0x0404, 0x0405)
        head = struct.pack("<IIII", opcode, pick(random, 1, 3), 0, 0)
        keylen = pick(random, 16, 24, 32, 0)
        body = struct.pack("<IIII", pick(random, 1, 2, 3), keylen, pick(random, 1, 2), 0)
        body = body.ljust(48, b"\0") + struct.pack("<II", pick(random, 1, 2), 0)
        return Request(control, (head + body, bytes(random.choice((16, 32, 1)))), (16,))
    head = struct.pack(
        "<IIQII",
        pick(random, 0x0000, 0x0001, 0x0100, 0x0400),
        3,
        pick(random, 0, 1, width=64),
        0,
        0,
    )
    lengths = [pick(random, 16, 0, 64) for _ in range(4)]
    body = struct.pack("<IIII", *lengths).ljust(40, b"\0") + struct.pack("<II", 1, 0)
    return Request(data, (head + body, bytes(16), bytes(64)), (random.choice((64, 16)), 1))


def mem(random: Random) -> Request:
    kind = pick(random, 0, 1, 2, 3, width=16)
    address = pick(random, 1 << 32, (1 << 32) + (2 << 20), width=64)
    body = struct.pack("<QH", address, pick(random, 1, 2, 32, width=16))
    return Request(0, (struct.pack("<HHHH", kind, 0, 0, 0) + body + bytes(6),), (10,))


def pmem(random: Random) -> Request:
    return Request(0, (struct.pack("<I", pick(random, 0)),), (4,))


def sound(random: Random) -> Request:
    stream = pick(random, 0, 1)
    queue = random.choice((0, 0, 0, 1, 2, 3))
    if queue == 2:
        return Request(
            2, (struct.pack("<I", stream), bytes(random.choice((0, 1, 4096))) or b"\0"), (8,)
        )
    if queue == 3:
        return Request(3, (struct.pack("<I", stream),), (4096, 8))
    if queue == 1:
        return Request(1, (), (8,))
    kind = pick(random, 1, 2, 0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x200)
    if kind in (1, 2, 0x100, 0x200):
        body = struct.pack("<III", pick(random, 0, 1), pick(random, 1, 2), pick(random, 32, 24))
        return Request(0, (struct.pack("<I", kind) + body,), (4, 512))
    body = struct.pack("<I", stream)
    if kind == 0x101:
        body += struct.pack("<III", pick(random, 4096), pick(random, 1024), 0)
        body += bytes((pick(random, 1, 2, width=8), pick(random, 5, width=8), 7, 0))
    return Request(0, (struct.pack("<I", kind) + body,), (4,))


def viommu(random: Random) -> Request:
    domain, endpoint = pick(random, 1, 2), pick(random, 8, 0xE8)
    start = pick(random, 0, 4096, 1 << 32, width=64)
    end = (start + 4095) % (1 << 64)
    bodies = {
        1: iommu.ATTACH.pack(domain, endpoint, pick(random, 0, 1)),
        2: iommu.DETACH.pack(domain, endpoint),
        3: iommu.MAP.pack(
            domain, start, pick(random, end, width=64), 17 << 20, pick(random, 1, 3, 7)
        ),
        4: iommu.UNMAP.pack(domain, start, pick(random, end, width=64)),
        5: iommu.PROBE.pack(endpoint),
    }
    kind = pick(random, *bodies, width=8)
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
