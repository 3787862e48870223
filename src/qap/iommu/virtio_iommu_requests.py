"""Features, requests and events of a virtio-iommu (virtio 1.3, section 5.13)."""

import struct
from enum import IntEnum

from qap.oracle.features import mask
from qap.virtio.driver import MODERN

# 5.13.3.
FEATURE_INPUT_RANGE = 0
FEATURE_DOMAIN_RANGE = 1
FEATURE_MAP_UNMAP = 2
FEATURE_PROBE = 4
FEATURE_BYPASS_CONFIG = 6
FEATURES = MODERN | mask(
    [
        FEATURE_INPUT_RANGE,
        FEATURE_DOMAIN_RANGE,
        FEATURE_MAP_UNMAP,
        FEATURE_PROBE,
        FEATURE_BYPASS_CONFIG,
    ]
)

# 5.13.4: page_size_mask, input_range, domain_range, probe_size, bypass.
CONFIG = struct.Struct("<QQQIIIB3x")
CONFIG_BYPASS = 36

# 5.13.6.3 to 5.13.6.7, without head and tail.
HEAD = struct.Struct("<B3x")
TAIL = struct.Struct("<B3x")
ATTACH = struct.Struct("<III4x")
DETACH = struct.Struct("<II8x")
MAP = struct.Struct("<IQQQI")
UNMAP = struct.Struct("<IQQ4x")
PROBE = struct.Struct("<I64x")
MAP_F_READ = 1 << 0
MAP_F_WRITE = 1 << 1

# 5.13.6.8: a property's head, and what RESV_MEM has after it.
PROPERTY = struct.Struct("<HH")
PROPERTY_RESV_MEM = 1
RESV_MEM = struct.Struct("<B3xQQ")

# 5.13.6.9.
FAULT = struct.Struct("<B3xII4xQ")
FAULT_F_READ = 1 << 0
FAULT_F_WRITE = 1 << 1


class IommuRequest(IntEnum):
    """type of struct virtio_iommu_req_head (5.13.6)."""

    ATTACH = 1
    DETACH = 2
    MAP = 3
    UNMAP = 4
    PROBE = 5


class IommuRequestStatus(IntEnum):
    """status of struct virtio_iommu_req_tail (5.13.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    DEVERR = 3
    INVAL = 4
    RANGE = 5
    NOENT = 6
    FAULT = 7
    NOMEM = 8
