"""Kernel modules that Debian does not build, in the kernel that they are compiled for."""

import pytest

from qap.host.errors import UsageError
from qap.lab.l1 import L1


def test_simulated_vdpa_devices_can_be_made(l1: L1) -> None:
    l1.load("vdpa_sim_blk", "vdpa_sim_net")
    shown = l1.check("/usr/sbin/vdpa mgmtdev show")
    assert "vdpasim_blk:" in shown
    assert "vdpasim_net:" in shown


def test_virtio_devices_of_l1_can_be_vdpa_devices(l1: L1) -> None:
    l1.load("vp_vdpa")
    l1.check("test -d /sys/bus/pci/drivers/vp-vdpa")


def test_mediated_devices_can_be_made(l1: L1) -> None:
    l1.load("mtty")
    l1.check("test -d /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1")


def test_module_that_nobody_has_is_named(l1: L1) -> None:
    with pytest.raises(UsageError, match="unknown kernel module 'vdpa_simblk'"):
        l1.load("vdpa_simblk")
