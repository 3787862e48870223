"""Configuration of virtio-pci devices in a big-endian guest."""

from collections.abc import Callable

import pytest

from qap.hw.s390x_cpu import Cpu
from qap.hw.zpci import ZpciFunction, zpci_functions
from qap.machine.catalog import device_types
from qap.machine.device import Device
from qap.matrix.config_reading import ConfigReader, ConfigReading, misread
from qap.oracle import config
from qap.oracle.config import Interface
from qap.oracle.features import FeatureBit, mask
from qap.verify.kit.checks import UP_TO_FEATURES_OK
from qap.verify.kit.lab import Lab
from qap.virtio.zpci import VirtioZpci

# What has fields of more than a byte, in QEMU itself and behind vhost-user.
KINDS = [
    kind
    for kind, row in device_types().items()
    if "pci" in row.transports
    and not row.kernel
    and not {"q35"} & {*row.machines}
    and row.config_layout not in ("", "8s")
    and kind not in ("virtio-vga", "vhost-user-vga")
]
# Those of them that are in the guest's order for a legacy driver.
BOTH = [
    kind
    for kind in KINDS
    if device_types()[kind].legacy and not device_types()[kind].config_layout.startswith("<")
]
# It has no legacy interface, and yet QEMU fills in its configuration as if it had.
GUESTS_ORDER = [*BOTH, "vhost-user-fs"]
REST = [kind for kind in KINDS if kind not in GUESTS_ORDER]
# A disk's capacity, size_max and seg_max, 5.2.4.
LAYOUT, SHOWN = "QII", 16
Start = Callable[[str], ZpciFunction]


@pytest.fixture
def start(lab: Lab) -> Start:
    """Starts a machine with a device of a type; returns its enabled function."""

    def started(kind: str) -> ZpciFunction:
        row = device_types()[kind]
        extra = [arg.format(folder=lab.folder) for arg in row.args]
        device: Device = {"driver": row.driver("pci"), **row.properties}
        if row.vhost_user:
            backend = lab.backend(kind, config=bytes(range(1, 1 + row.vhost_user.config)))
            device, words = row.pci(backend.path.stem)
            extra += words
        if row.legacy:
            device = {**device, "disable-legacy": "off"}
        machine = lab.s390x(device, extra=extra)
        (function,) = zpci_functions(Cpu(machine.qtest, machine.serial))
        function.enable()
        return function

    return started


def read(function: ZpciFunction, kind: str, *interfaces: Interface) -> list[ConfigReading]:
    """What drivers of these interfaces read, one after the other."""
    row = device_types()[kind]
    size = config.size(row.config_layout)
    readings: list[ConfigReading] = []
    for turn, interface in enumerate(interfaces):
        driver = VirtioZpci(function, legacy=interface == "legacy")
        readings += ConfigReader(driver, turn, size, mask(row.accepts)).run()
    return readings


@pytest.mark.parametrize("kind", GUESTS_ORDER)
def test_modern_driver_reads_the_same_at_every_step(start: Start, kind: str) -> None:
    """2.5.3 makes no exception for a driver that has not accepted VERSION_1 yet."""
    readings = read(start(kind), kind, "modern")
    assert misread(readings, device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("kind", BOTH)
def test_drivers_of_both_kinds_take_turns(start: Start, kind: str) -> None:
    """2.5.4: a legacy driver after a reset has the guest's order, and the next one has not."""
    readings = read(start(kind), kind, "modern", "legacy", "modern")
    assert misread(readings, device_types()[kind].config_layout, "big") == []


@pytest.mark.parametrize("kind", REST)
def test_other_configuration_is_always_little_endian(start: Start, kind: str) -> None:
    """A device without a legacy interface, and a balloon, 5.5.4."""
    turns: list[Interface] = ["modern", "legacy"] if device_types()[kind].legacy else ["modern"]
    readings = read(start(kind), kind, *turns)
    assert misread(readings, device_types()[kind].config_layout, "big") == []


def test_back_ends_configuration_is_converted_for_a_legacy_driver(start: Start) -> None:
    """vhost-user-blk is the only one that has both; the back-end's fields are little-endian."""
    legacy = VirtioZpci(start("vhost-user-blk"), legacy=True)
    legacy.reset()
    little = bytes(range(1, 1 + SHOWN))
    assert legacy.config_read(0, SHOWN) == config.arranged(little, LAYOUT, "big")


def test_both_interfaces_show_a_modern_driver_the_same_bytes(start: Start) -> None:
    """Without a reset between, the configuration is little-endian on the legacy one, too."""
    function = start("virtio-blk")
    modern, legacy = (VirtioZpci(function, legacy=legacy) for legacy in (False, True))
    modern.reset()
    big = legacy.config_read(0, SHOWN)
    little = modern.config_read(0, SHOWN)
    assert big == config.arranged(little, LAYOUT, "big")
    assert legacy.config_read(0, SHOWN) == little
    modern.set_driver_feature_word(1, mask([FeatureBit.VERSION_1]) >> 32)
    for status in UP_TO_FEATURES_OK:
        modern.set_status(status)
        assert [driver.config_read(0, SHOWN) for driver in (legacy, modern)] == [little] * 2
