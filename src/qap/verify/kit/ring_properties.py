"""Feature bits of rings that are properties of every virtio device in QEMU.

ACCESS_PLATFORM, which is one as well, has tests of its own.
"""

from collections.abc import Mapping

from qap.oracle.features import FeatureBit as F

RING_PROPERTIES: Mapping[F, str] = {
    F.NOTIFY_ON_EMPTY: "notify_on_empty",
    F.ANY_LAYOUT: "any_layout",
    F.INDIRECT_DESC: "indirect_desc",
    F.EVENT_IDX: "event_idx",
    F.RING_PACKED: "packed",
    F.IN_ORDER: "in_order",
    F.RING_RESET: "queue_reset",
}
# What only a legacy interface shows (virtio 1.3, 6.3).
LEGACY_ONLY = (F.NOTIFY_ON_EMPTY, F.ANY_LAYOUT)
