"""qap.vhost_user.backend logs what it writes to a migrating VM's memory, behind an IOMMU, too."""

import os
import struct
from contextlib import ExitStack
from pathlib import Path

from qap.oracle.features import mask
from qap.vhost_user.memory.dirty_log import LOG_ALL, VRING_F_LOG
from qap.vhost_user.protocol import ProtocolFeature

from .front_end import R, memfd, u64
from .iommu import PAGE, Iommu
from .ring_driver import DATA, DESC, DEVICE, DRIVER, GUEST_BASE, IOVA_BASE, WRITE, Buffer

LOGGING = mask((ProtocolFeature.BACKEND_REQ, ProtocolFeature.REPLY_ACK, ProtocolFeature.LOG_SHMFD))


def test_translated_writes_are_logged_at_guest_addresses(tmp_path: Path) -> None:
    """QEMU tells the used ring's IOVA where the log's address of it is due."""
    with ExitStack() as owned:
        iommu = Iommu(tmp_path, owned, reply_ack=True)
        driver = iommu.driver
        iommu.front.tell(R.SET_PROTOCOL_FEATURES, u64(LOGGING))
        iommu.front.tell(R.SET_FEATURES, u64(driver.features | 1 << LOG_ALL))
        areas = (IOVA_BASE + DESC, IOVA_BASE + DEVICE, IOVA_BASE + DRIVER)
        told = struct.pack("=IIQQQQ", 0, VRING_F_LOG, *areas, IOVA_BASE + DEVICE)
        iommu.front.tell(R.SET_VRING_ADDR, told)
        size = 1 << 16
        with memfd(size) as log:
            iommu.front.tell(R.SET_LOG_BASE, struct.pack("=QQ", size, 0), fds=[log])
            iommu.front.answer(R.SET_LOG_BASE)
            iommu.translate_rings()
            iommu.update(DATA, to=DATA + PAGE)
            driver.add([Buffer(DATA, 16, WRITE)])
            iommu.kick()
            driver.sync()
            raw = os.pread(log, size, 0)
        assert driver.used_idx == 1
        pages = [page for page in range(8 * size) if raw[page // 8] >> page % 8 & 1]
        assert pages == [(GUEST_BASE + offset) // PAGE for offset in (DEVICE, DATA + PAGE)]
