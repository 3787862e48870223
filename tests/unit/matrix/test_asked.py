"""The cell that the options of qap repro describe."""

import pytest

from qap.host.errors import UsageError
from qap.machine.asked import asked
from qap.matrix.asked import asked_cell
from qap.matrix.cell import Cell
from qap.oracle.fence import Outcome
from qap.scenario.request import Request


def a_cell(device: str, machine: str = "q35", **options: object) -> Cell:
    wanted = Request.model_validate({"machine": machine, "device": device, **options})
    return asked_cell(*asked(machine, device), wanted)


def test_device_is_on_its_machine_behind_a_programmed_iommu() -> None:
    cell = a_cell("vhost-user-gpio-pci", plug="hot", viommu="amd-iommu")
    assert cell.name == "q35/modern/vhost-user-gpio/no-ap/amd-on/any/on/hot/accepts"
    assert cell.expected[0].outcome is Outcome.REFUSED


def test_back_end_offers_what_it_is_told_to() -> None:
    told = {"plug": "hot", "viommu": "intel-iommu"}
    able = a_cell("vhost-user-gpio-pci", backend="ACCESS_PLATFORM", **told)
    assert (able.config.backend, able.expected[0].outcome) == ("ap", Outcome.WORKS)
    unable = a_cell("vhost-user-gpio-pci", backend="ACCESS_PLATFORM,-BACKEND_REQ", **told)
    assert unable.config.backend == "ap-no-backend-req"
    assert unable.expected[0].outcome is Outcome.REFUSED


def test_function_of_s390x_is_always_translated() -> None:
    unable = a_cell("vhost-user-gpio-pci", "s390-ccw-virtio")
    assert unable.expected[0].outcome is Outcome.REFUSED
    able = a_cell("vhost-user-gpio-pci", "s390-ccw-virtio", backend="ACCESS_PLATFORM")
    assert able.expected[0].translating
    assert able.config.machine_type == "s390-ccw-virtio"


def test_options_choose_the_driver() -> None:
    assert a_cell("virtio-blk-pci").driver == "accepts"
    assert a_cell("virtio-blk-pci", packed=True).driver == "accepts-packed"
    assert a_cell("virtio-blk-pci", plug="replug").driver == "unplugs"
    assert a_cell("virtio-blk-device", "microvm").config.interface == "version-2"


def test_cell_need_not_be_one_of_a_plan() -> None:
    cell = a_cell("virtio-keyboard-pci", "q35", plug="hot", later="moves-on", order="after")
    assert cell.config.order == "any"
    assert cell.continuation is not None


@pytest.mark.parametrize(
    ("device", "options", "later"),
    [
        ("vhost-user-gpio-pci", {"kill_backend": "idle"}, "returns"),
        ("vhost-user-vsock-pci", {"kill_backend": "idle"}, "leaves"),
        ("virtio-keyboard-pci", {"migrate": True}, "moves-on"),
        ("virtio-keyboard-pci", {"migrate": True, "iommu_platform": False}, "moves-off"),
    ],
)
def test_event_of_a_guest_has_one_of_a_driver(
    device: str, options: dict[str, object], later: str
) -> None:
    assert a_cell(device, "q35", **options).config.later == later


def test_what_is_beside_the_axes_is_shown_and_not_in_the_name() -> None:
    plain = a_cell("virtio-blk-pci", viommu="intel-iommu")
    more = a_cell("virtio-blk-pci", viommu="intel-iommu", behind="pxb", queues=2, ats=True)
    assert more.name == plain.name
    assert more.config.more == {"behind": "pxb", "queues": "2", "ats": "on"}
    assert more.config.roots == (0, 64)


@pytest.mark.parametrize(
    ("machine", "device", "options", "said"),
    [
        ("s390-ccw-virtio", "virtio-rng-pci", {"migrate": True}, "no VM that has s390-pci"),
        ("microvm", "vhost-user-gpio-device", {"plug": "hot"}, "virtio-mmio takes no device"),
        ("q35", "vhost-user-gpu-pci", {"plug": "hot"}, "the device is not hot-pluggable"),
        ("pc", "virtio-crypto-pci", {"viommu": "intel-iommu"}, "pc takes no intel-iommu"),
        ("q35", "virtio-crypto-pci", {"viommu": "arm"}, "unknown vIOMMU"),
        ("q35", "virtio-iommu-pci", {"viommu": "amd-iommu"}, "a machine takes one IOMMU"),
        ("q35", "virtio-rng-pci", {"viommu": "amd-iommu", "bypass": True}, "can't be bypassed"),
        ("q35", "virtio-rng-pci", {"backend": "none"}, "its back-end can't be told"),
        ("q35", "vhost-user-gpio-pci", {"backend": "RING_PACKED"}, "has no such back-end"),
        ("q35", "vhost-user-gpio-pci", {"later": "dies"}, "unknown event"),
        ("q35", "vhost-user-fs-pci", {"later": "returns"}, "QEMU does not connect again"),
        ("q35", "virtio-rng-pci", {"later": "leaves"}, "no back-end that could leave"),
        ("q35", "vhost-user-blk-pci", {"later": "moves-on"}, "only a VM with a device in QEMU"),
        ("q35", "vhost-user-rng-pci", {"migrate": True}, "QEMU migrates no VM that has vhost-us"),
        ("q35", "virtio-rng-pci", {"migrate": True, "viommu": "amd-iommu"}, "has amd-iommu"),
        ("q35", "virtio-rng-pci", {"kill_backend": "idle"}, "no back-end that could leave"),
        ("q35", "vhost-user-gpio-pci", {"kill_backend": "busy"}, "take --kill-backend idle"),
        ("q35", "virtio-blk-pci", {"migrate": True, "later": "moves-on"}, "--later says what"),
        ("q35", "virtio-blk-pci", {"behind": "pxb", "plug": "hot"}, "goes without --hotplug"),
        ("q35", "virtio-blk-pci", {"behind": "pbx"}, "unknown place of q35 'pbx'"),
        ("pc", "virtio-blk-pci", {"behind": "pxb"}, "pc has one place for a device"),
        ("q35", "virtio-rng-pci", {"queues": 2}, "no property for how many queues"),
        ("q35", "virtio-rng-pci", {"iothread": True}, "not served by an iothread"),
        ("q35", "virtio-blk-pci", {"ats": True}, "at device level --ats takes --viommu intel"),
        ("q35", "vhost-scsi-pci", {"behind": "pxb"}, "runs in the kernel lab: leave out"),
        ("q35", "virtio-rng-pci", {"packed": True, "plug": "replug"}, "not with --replug"),
    ],
)
def test_what_can_not_be_is_refused(
    machine: str, device: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        a_cell(device, machine, **options)
