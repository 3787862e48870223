"""A kernel's vhost devices that are a shared library, and serve nothing."""

import os
from pathlib import Path

from qap.host.compiler import LIBRARY, compile_c
from qap.oracle.features import FeatureBit, mask

SOURCE = Path(__file__).with_name("fake_vhost.c")
# File descriptors of QEMU, for properties that name one: so high that nothing else has them.
VHOST_FD = 98
TAP_FD = 99
# For the property that names a file.
DEVICE = "/dev/null"
# virtio 1.3, 5: device IDs.
NETWORK, BLOCK = 1, 2
MODERN = mask([FeatureBit.VERSION_1])


# linux/vhost.h: VHOST_SET_FEATURES and VHOST_VDPA_GET_CONFIG.
SET_FEATURES, GET_CONFIG = 0x4008AF00, 0x8008AF73


def fake_vhost(
    folder: Path, features: int = MODERN, vdpa_type: int = BLOCK, fails: int = 0
) -> list[str]:
    """The words of a command that runs QEMU with such devices.

    Args:
        folder: for the library, and a tap device that receives nothing.
        features: what each of them offers.
        vdpa_type: the virtio device ID of a vDPA device.
        fails: the request (ioctl(2)) that fails with EIO; 0 for none.
    """
    library, silent = folder / "fake_vhost.so", folder / "tap"
    compile_c(SOURCE, library, *LIBRARY)
    os.mkfifo(silent)
    opens = f'exec "$0" "$@" {VHOST_FD}<>{DEVICE} {TAP_FD}<>{silent}'
    told = [
        f"FAKE_VHOST_FEATURES={features:#x}",
        f"FAKE_VDPA_TYPE={vdpa_type}",
        f"FAKE_VHOST_FAILS={fails:#x}",
    ]
    return ["env", *told, f"LD_PRELOAD={library}", "bash", "-c", opens]
