"""A driver of a SCSI host, and QEMU's disk behind it: commands, data, and how they fail."""

import pytest

from qap.verify.kit.checks import negotiated
from qap.verify.kit.lab import Lab
from qap.virtio.scsi import BLOCK, GOOD, OK, Scsi, ScsiError, Unit

DISK = Unit(target=3, lun=1)
BLOCKS = 64
CHECK_CONDITION = 2
BAD_TARGET = 3
ILLEGAL_REQUEST = 5


@pytest.fixture
def scsi(lab: Lab) -> Scsi:
    """A host with one disk of zeros."""
    machine = lab.machine(
        {"driver": "virtio-scsi-pci", "id": "dut", "disable-legacy": "on"},
        {"driver": "scsi-hd", "scsi-id": DISK.target, "lun": DISK.lun, "drive": "disk"},
        blockdevs=[f"driver=file,node-name=disk,filename={image(lab)}"],
        qtest=True,
    )
    host = Scsi(negotiated(machine))
    host.wake(DISK)
    return host


def image(lab: Lab) -> str:
    path = lab.folder / "disk.img"
    path.write_bytes(bytes(BLOCK * BLOCKS))
    return str(path)


def test_disk_says_what_it_is(scsi: Scsi) -> None:
    assert b"QEMU HARDDISK" in scsi.inquiry(DISK)


def test_blocks_are_written_and_read(scsi: Scsi) -> None:
    data = bytes(range(256)) * 4
    scsi.write(DISK, 5, data)
    assert scsi.read(DISK, 4, 4) == bytes(BLOCK) + data + bytes(BLOCK)


def test_block_after_the_end_fails_with_sense(scsi: Scsi) -> None:
    with pytest.raises(ScsiError, match="status 0x2") as failed:
        scsi.read(DISK, BLOCKS)
    assert (failed.value.response, failed.value.status) == (OK, CHECK_CONDITION)
    assert failed.value.sense[2] & 0xF == ILLEGAL_REQUEST


def test_unit_that_is_not_there_is_the_hosts_error(scsi: Scsi) -> None:
    with pytest.raises(ScsiError, match=f"response {BAD_TARGET}") as failed:
        scsi.inquiry(Unit(target=4))
    assert failed.value.status == GOOD
