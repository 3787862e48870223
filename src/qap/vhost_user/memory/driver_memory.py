"""The driver's memory as the device sees it: regions, IOTLB and dirty log."""

from collections.abc import Callable

from qap.oracle.features import FeatureBit
from qap.vhost_user.handler import Acked, Handlers, Words, only_fd, u64
from qap.vhost_user.memory.access import Dirty, MemoryAccess, RawTouched
from qap.vhost_user.memory.dirty_log import LOG_ALL, DirtyLog
from qap.vhost_user.memory.iotlb import Iotlb, IotlbEntry, IotlbType, Permission
from qap.vhost_user.memory.mem_table import BadAddress, MemoryRegion, MemTable
from qap.vhost_user.protocol import FrontendRequest, Message, ProtocolError, ProtocolFeature

MEM_SLOTS = 32
REGION_WORDS = 4
_READ, _WRITE = int(Permission.READ), int(Permission.WRITE)
_R = FrontendRequest


class DriverMemory:
    """The memory that a front-end has shared on a connection; owns the mappings.

    Args:
        acked: what is acknowledged on the connection.
        touch: called for each access.
        miss: asks the front-end to translate an address for a Permission, and returns
            after the answer; may raise.
    """

    def __init__(
        self,
        acked: Acked,
        touch: Callable[[RawTouched], None],
        miss: Callable[[int, int], None],
    ) -> None:
        self.table = MemTable()
        self.iotlb = Iotlb()
        self.log: DirtyLog | None = None
        self._acked = acked
        self._touch = touch
        self._miss = miss

    def rings(self, queue: int, device_area: int, log_address: int | None) -> MemoryAccess:
        """A queue's access to its descriptor, driver and device areas.

        Args:
            queue: its index.
            device_area: address of the device area.
            log_address: guest physical address at which writes to it are logged, or None. With
                ACCESS_PLATFORM QEMU sends an IOVA, and reads the log at guest addresses; so the
                address is what the IOTLB leads to.
        """
        dirty: Dirty | None = None
        log = self.log
        if log and log_address is not None:
            shift = log_address - device_area

            def dirty(address: int, _: MemoryRegion, __: int, size: int) -> None:
                log.mark(address + shift, size)

            # A packed ring is written in its descriptor area, too.
            if self._acked.has(FeatureBit.ACCESS_PLATFORM) or self._acked.has(
                FeatureBit.RING_PACKED
            ):
                dirty = log.mark_buffer

        if self._acked.has(FeatureBit.ACCESS_PLATFORM):
            return MemoryAccess("iova", queue, self._touch, self._at_iova, dirty)
        if self._gpa_addresses:
            return MemoryAccess("gpa", queue, self._touch, self._at_guest, dirty)
        return MemoryAccess("uva", queue, self._touch, self._at_user, dirty)

    def buffers(self, queue: int) -> MemoryAccess:
        """A queue's access to what its descriptors point to."""
        dirty = self.log.mark_buffer if self.log and self._acked.has(LOG_ALL) else None
        if self._acked.has(FeatureBit.ACCESS_PLATFORM):
            return MemoryAccess("iova", queue, self._touch, self._at_iova, dirty)
        return MemoryAccess("gpa", queue, self._touch, self._at_guest, dirty)

    @property
    def _gpa_addresses(self) -> bool:
        return self._acked.has_protocol(ProtocolFeature.GPA_ADDRESSES)

    def _at_user(self, address: int, _: bool) -> tuple[MemoryRegion, int, int]:
        region, at = self.table.at_user(address)
        return region, at, region.size - at

    def _at_guest(self, address: int, _: bool) -> tuple[MemoryRegion, int, int]:
        region, at = self.table.at_guest(address)
        return region, at, region.size - at

    def _at_iova(self, address: int, write: bool) -> tuple[MemoryRegion, int, int]:
        permission = _WRITE if write else _READ
        translation = self.iotlb.find(address, permission)
        while translation is None:
            invalidations = self.iotlb.invalidations
            self._miss(address, permission)
            translation = self.iotlb.find(address, permission)
            # An invalidation may follow the answer at once, and mean another mapping.
            if translation is None and self.iotlb.invalidations == invalidations:
                to = "write" if write else "read"
                raise BadAddress(f"the front-end doesn't let us {to} at IOVA {address:#x}")
        found, room = translation
        find = self.table.at_guest if self._gpa_addresses else self.table.at_user
        region, at = find(found)
        return region, at, min(room, region.size - at)

    def forget(self) -> None:
        """Drop all regions, IOTLB entries and the log."""
        self.table.close()
        self.iotlb.clear()
        if self.log:
            self.log.close()
            self.log = None

    def handlers(self) -> Handlers:
        """The requests about memory."""
        return {
            _R.SET_MEM_TABLE: self._set_mem_table,
            _R.GET_MAX_MEM_SLOTS: lambda asked, _: u64(asked, MEM_SLOTS),
            _R.ADD_MEM_REG: self._add_mem_reg,
            _R.REM_MEM_REG: self._rem_mem_reg,
            _R.IOTLB_MSG: self._iotlb_msg,
        }

    def _set_mem_table(self, asked: Message, words: Words) -> None:
        count, _, *flat = words
        regions = [flat[at : at + REGION_WORDS] for at in range(0, len(flat), REGION_WORDS)]
        if count != len(regions):
            raise ProtocolError(f"SET_MEM_TABLE announces {count} regions and has {len(regions)}")
        self.iotlb.clear()
        self.table.replace(regions, asked.fds)

    def _add_mem_reg(self, asked: Message, words: Words) -> None:
        self.table.add(words[1:], only_fd(asked))

    def _rem_mem_reg(self, _: Message, words: Words) -> None:
        self.iotlb.clear()
        self.table.remove(*words[1:4])

    def _iotlb_msg(self, asked: Message, words: Words) -> Message:
        iova, size, user_address, permission, kind = words
        if kind == IotlbType.UPDATE:
            self.iotlb.update(IotlbEntry(iova, size, user_address, permission))
        elif kind == IotlbType.INVALIDATE:
            self.iotlb.invalidate(iova, size)
        else:
            return u64(asked, 1)
        return u64(asked, 0)

    def set_log_base(self, asked: Message, words: Words) -> Message | None:
        """SET_LOG_BASE, which has a bitmap only with LOG_SHMFD.

        A MemoryAccess that was made before doesn't log there.
        """
        if not self._acked.has_protocol(ProtocolFeature.LOG_SHMFD):
            return None
        if len(words) != 2:
            raise ProtocolError("SET_LOG_BASE has no log description")
        log = DirtyLog(only_fd(asked), *words)
        if self.log:
            self.log.close()
        self.log = log
        return asked.reply()
