"""The machine on which an explained device is tried: what is kept, and what is replaced."""

from pathlib import Path

import pytest

from qap.explain.explanation import Explanation, explain
from qap.explain.prediction import Prediction
from qap.scenario.same_topology import bench, obstacle

FOLDER = Path("/scratch")
LINE = (
    "qemu-system-x86_64 -M pc-q35-noble,usb=off,default-bus-bypass-iommu=on -nodefaults "
    "-device qemu-xhci,id=usb -device pcie-root-port,id=rp0,chassis=1,addr=2 "
    "-chardev socket,id=c0,path=/run/c0 "
    "-device vhost-user-fs-pci,chardev=c0,tag=mine,id=fs0,bus=rp0,iommu_platform=on,queue-size=64 "
    "-device virtio-blk-pci,drive=mine,id=blk0,iommu_platform=on,disable-legacy=on "
    "-device intel-iommu,intremap=on -global virtio-pci.disable-modern=off "
    "-global ICH9-LPC.disable_s3=1"
)


def explained(line: str, name: str) -> tuple[Explanation, Prediction]:
    found = explain(line.encode(), "it", FOLDER, {})
    (device,) = [one for one in found.predictions if one.name == name]
    return found, device


def test_one_device_and_the_way_to_it_are_kept_in_their_order() -> None:
    spec = bench(*explained(LINE, "blk0"), FOLDER, is_base=True).spec
    assert spec.machine == "pc-q35-8.2,default-bus-bypass-iommu=on"
    assert spec.devices == [
        {"driver": "pcie-root-port", "id": "rp0", "chassis": "1", "addr": "2"},
        {
            "driver": "virtio-blk-pci",
            "drive": "disk0",
            "id": "blk0",
            "iommu_platform": "on",
            "disable-legacy": "on",
        },
        {"driver": "intel-iommu", "intremap": "on"},
    ]
    assert list(spec.extra[:2]) == ["-global", "virtio-pci.disable-modern=off"]
    assert not any("ICH9" in word for word in spec.extra)


def test_back_end_is_replaced() -> None:
    spec = bench(*explained(LINE, "fs0"), FOLDER, is_base=True).spec
    assert spec.devices[1] == {
        "driver": "vhost-user-fs-pci",
        "id": "fs0",
        "bus": "rp0",
        "iommu_platform": "on",
        "tag": "share",
        "chardev": "back-end",
    }
    assert "socket,id=back-end,path=/scratch/back-end" in spec.extra
    assert not any("/run/c0" in word for word in spec.extra)


def test_hot_plugged_device_comes_later() -> None:
    line = LINE + "\n(qemu) device_add virtio-rng-pci,id=rng0,bus=rp0\n"
    made = bench(*explained(line, "rng0"), FOLDER, is_base=True)
    assert made.hot == "virtio-rng-pci,id=rng0,bus=rp0"
    assert [device["driver"] for device in made.spec.devices] == ["pcie-root-port", "intel-iommu"]


@pytest.mark.parametrize("is_base", [True, False])
def test_confidential_guest_is_what_it_sets(is_base: bool) -> None:
    line = (
        "qemu-system-x86_64 -nodefaults -M microvm,confidential-guest-support=s "
        "-object sev-guest,id=s -device virtio-rng-device,id=rng0"
    )
    spec = bench(*explained(line, "rng0"), FOLDER, is_base=is_base).spec
    assert "virtio-device.iommu_platform=on" in spec.extra
    assert ("virtio-mmio.force-legacy=off" in spec.extra) == (not is_base)
    assert "confidential" not in spec.machine


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "qemu-system-aarch64 -nodefaults -M virt -device virtio-rng-pci,id=d",
            "no profile builds",
        ),
        ("qemu-system-x86_64 -nodefaults -M isapc -device virtio-rng-pci,id=d", "the machine type"),
        ("qemu-system-x86_64 -nodefaults -M pc-q35-11.0 -device virtio-rng-pci,id=d", "QEMU 10.0"),
        ("qemu-system-x86_64 -nodefaults -device vhost-vsock-pci,guest-cid=3,id=d", "it is served"),
        ("qemu-system-x86_64 -nodefaults -device virtio-input-host-pci,id=d", "it needs a host"),
        ("qemu-system-x86_64 -nodefaults -device virtio-rng-pci,id=d", ""),
    ],
)
def test_what_can_not_be_tried_says_why(line: str, why: str) -> None:
    found = obstacle(*explained(line, "d"))
    assert found.startswith(why)
    assert bool(found) == bool(why)
