"""What becomes of devices, and by whom it was asked for."""

import pytest

from qap.explain.facts import Verdict
from qap.host.errors import UsageError
from qap.oracle import remedy
from qap.oracle.fence import REFUSAL_PHRASE, Outcome
from qap.oracle.stock import LEGACY_PCI, NO_MEANS, NO_SIMULATION

from .lines import FS, device, explanation

W, R, U = Outcome.WORKS, Outcome.REFUSED, Outcome.UNSERVED
Q35 = "-nodefaults -M q35 -device pcie-root-port,id=rp0"
VTD = f"{Q35} -device intel-iommu"
SEV = f"{Q35} -machine confidential-guest-support=sev0 -object sev-guest,id=sev0"
BLK = "-chardev socket,id=c0,path=/b -device vhost-user-blk-pci,chardev=c0,id=blk0"


def ends(verdict: Verdict) -> tuple[Outcome, Outcome]:
    """On stock QEMU and on the fork."""
    return verdict.driven_on_stock, verdict.driven.outcome


@pytest.mark.parametrize(
    ("line", "name", "outcomes"),
    [
        (f"{Q35} {FS}", "fs0", (W, W)),
        (f"{Q35} {FS},iommu_platform=on", "fs0", (R, W)),
        (f"{VTD} {FS}", "fs0", (W, W)),
        (f"{VTD} {FS},iommu_platform=on", "fs0", (R, R)),
        (f"{SEV} {FS}", "fs0", (R, W)),
        (f"{SEV} {FS},iommu_platform=off", "fs0", (U, U)),
        (f"{SEV} -device virtio-balloon-pci", "virtio-balloon-pci", (U, U)),
        (f"{Q35} -device virtio-balloon-pci,disable-legacy=on,iommu_platform=on",
         "virtio-balloon-pci", (U, U)),
        (f"{Q35} -device virtio-rng-pci,iommu_platform=on", "virtio-rng-pci", (R, R)),
        (f"{Q35} -device virtio-rng-pci,iommu_platform=on,bus=rp0", "virtio-rng-pci", (W, W)),
        (f"{Q35} -device virtio-rng-pci-transitional,iommu_platform=on,bus=rp0",
         "virtio-rng-pci-transitional", (R, R)),
        (f"{Q35} -device virtio-rng-pci-non-transitional,iommu_platform=on",
         "virtio-rng-pci-non-transitional", (W, W)),
        (f"{Q35} -device virtio-rng-pci,disable-legacy=on,disable-modern=on",
         "virtio-rng-pci", (R, R)),
        ("-M microvm -device virtio-rng-device,iommu_platform=on", "virtio-rng-device", (W, R)),
        ("-M microvm -global virtio-mmio.force-legacy=off "
         "-device virtio-rng-device,iommu_platform=on", "virtio-rng-device", (W, W)),
        ("-M microvm,confidential-guest-support=s -object sev-guest,id=s "
         "-device virtio-rng-device", "virtio-rng-device", (W, W)),
        ("qemu-system-s390x -nodefaults -device virtio-rng-ccw,iommu_platform=on",
         "virtio-rng-ccw", (W, W)),
        ("qemu-system-s390x -nodefaults -device virtio-rng-ccw,iommu_platform=on,max_revision=0",
         "virtio-rng-ccw", (W, R)),
        ("qemu-system-s390x -nodefaults -M s390-ccw-virtio-9.2 "
         "-device virtio-rng-ccw,iommu_platform=on,max_revision=0", "virtio-rng-ccw", (W, W)),
        ("qemu-system-s390x -nodefaults -chardev socket,id=c,path=/f "
         "-device vhost-user-fs-pci,chardev=c,tag=t,iommu_platform=on,id=fs0", "fs0", (R, R)),
        ("qemu-system-s390x -nodefaults -M s390-ccw-virtio-7.1 -device virtio-rng-pci",
         "virtio-rng-pci", (R, R)),
        ("qemu-system-s390x -nodefaults -M s390-ccw-virtio-7.2 -device virtio-rng-pci",
         "virtio-rng-pci", (W, W)),
        (f"{VTD} -device virtio-iommu-pci,iommu_platform=on", "virtio-iommu-pci", (W, R)),
        (f"{VTD} -device vhost-vsock-pci,guest-cid=3,iommu_platform=on", "vhost-vsock-pci", (W, W)),
        (f"{VTD} -device vhost-scsi-pci,wwpn=w,iommu_platform=on,bus=rp0",
         "vhost-scsi-pci", (W, R)),
    ],
)  # fmt: skip
def test_outcome_on_stock_and_fork(line: str, name: str, outcomes: tuple[Outcome, Outcome]) -> None:
    (verdict,) = device(line, name).verdicts
    assert ends(verdict) == outcomes


@pytest.mark.parametrize(
    ("line", "requested", "by"),
    [
        ("", False, "not given"),
        (",iommu_platform=on", True, "iommu_platform=on"),
        (",iommu_platform=off -global virtio-device.iommu_platform=on", False,
         "iommu_platform=off"),
        (" -global virtio-device.iommu_platform=on", True,
         "-global virtio-device.iommu_platform=on"),
        (" -global driver=virtio-rng-pci,property=iommu_platform,value=on", True,
         "-global virtio-rng-pci.iommu_platform=on"),
        (" -global virtio-pci.iommu_platform=off -global virtio-rng-device.iommu_platform=on",
         False, "-global virtio-pci.iommu_platform=off"),
        (" -global virtio-blk-pci.iommu_platform=on", False, "not given"),
        (" -set device.rng0.iommu_platform=on", True, "iommu_platform=on"),
        (" -machine memory-encryption=sev0 -object sev-guest,id=sev0", True,
         "forced by memory-encryption=sev0"),
        (" -machine memory-encryption=sev0 -object sev-guest,id=sev0 "
         "-global virtio-rng-pci.iommu_platform=off", False,
         "-global virtio-rng-pci.iommu_platform=off"),
    ],
)  # fmt: skip
def test_who_requests(line: str, requested: bool, by: str) -> None:
    found = device(f"{Q35} -device virtio-rng-pci,id=rng0{line}", "rng0")
    assert (found.requested, found.requested_by) == (requested, by)


@pytest.mark.parametrize(
    ("line", "legacy"),
    [
        ("-device virtio-rng-pci", "also"),
        ("-device virtio-rng-pci,bus=rp0", ""),
        ("-device virtio-rng-pci,bus=rp0,disable-legacy=off", "also"),
        ("-device virtio-rng-pci,bus=rp0,disable-legacy=auto", ""),
        ("-device virtio-rng-pci,disable-legacy=on", ""),
        ("-device virtio-rng-pci,disable-modern=on", "only"),
        ("-device virtio-rng-pci -global virtio-pci.disable-modern=on", "only"),
        ("-device pcie-pci-bridge,id=b -device virtio-rng-pci,bus=b", "also"),
        ("-device virtio-gpu-pci", ""),
    ],
)
def test_interface_on_pci(line: str, legacy: str) -> None:
    (found,) = explanation(f"{Q35} {line}").predictions
    assert found.interface.legacy == legacy


def test_old_pci_machine_is_legacy_alone() -> None:
    found = device("-nodefaults -M pc-i440fx-2.6 -device virtio-rng-pci", "virtio-rng-pci")
    assert found.interface.legacy == "only"


def test_what_is_not_known_of_a_back_end_makes_two_cases() -> None:
    without, with_it = device(f"{VTD} {BLK},iommu_platform=on,bus=rp0", "blk0").verdicts
    assert "does not offer" in without.assumed
    assert ends(without) == (R, R)
    assert ends(with_it) == (W, W)


def test_what_does_not_matter_makes_one() -> None:
    (verdict,) = device(f"{VTD} {BLK},bus=rp0", "blk0").verdicts
    assert verdict.assumed == ""
    assert ends(verdict) == (W, W)


@pytest.mark.parametrize(
    ("told", "outcomes", "error"),
    [
        ("blk0=ACCESS_PLATFORM", (W, W), ""),
        ("c0=ACCESS_PLATFORM,RING_PACKED", (W, W), ""),
        ("/b=none", (R, R), REFUSAL_PHRASE),
        ("blk0=0x300000000", (W, W), ""),
        ("blk0=0x100000000", (R, R), REFUSAL_PHRASE),
        ("blk0=ACCESS_PLATFORM,-REPLY_ACK", (R, R), NO_MEANS),
    ],
)
def test_back_end_as_told(told: str, outcomes: tuple[Outcome, Outcome], error: str) -> None:
    (verdict,) = device(f"{VTD} {BLK},iommu_platform=on,bus=rp0", "blk0", told).verdicts
    assert ends(verdict) == outcomes
    assert verdict.on_stock.error == error


def test_back_end_without_version_1() -> None:
    found = device(f"{Q35} {BLK},iommu_platform=on,bus=rp0", "blk0", "blk0=none,-VERSION_1")
    (verdict,) = found.verdicts
    assert verdict.driven.outcome is R
    assert verdict.remedies == ["a back-end that offers VERSION_1"]


@pytest.mark.parametrize(
    ("netdev", "kind", "can"),
    [
        ("user,id=n", "in QEMU", True),
        ("tap,id=n,fd=3", "in QEMU", True),
        ("tap,id=n,vhost=on", "in the host's kernel", True),
        ("""'{"type":"tap","id":"n","vhost":true,"vhostfd":"9"}'""", "in the host's kernel", True),
        ("tap,id=n,vhostfd=4", "in the host's kernel", True),
        ("vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0", "a vDPA device", None),
        ("vhost-user,id=n,chardev=c", "a vhost-user program", None),
    ],
)
def test_network_device_is_served_by_what_its_netdev_is(
    netdev: str, kind: str, can: bool | None
) -> None:
    line = f"{Q35} -netdev {netdev} -device virtio-net-pci,netdev=n,id=net0,bus=rp0"
    if "chardev" in netdev:
        line += " -chardev socket,id=c,path=/n"
    found = device(line, "net0")
    assert (found.backend.kind, found.backend.can) == (kind, can)


def test_vdpa_device_that_does_not_offer_the_bit_is_refused_everywhere() -> None:
    line = f"{Q35} -device vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-0,id=v"
    (verdict,) = device(line, "v", "v=none").verdicts
    assert ends(verdict) == (W, R)
    assert "physical" in verdict.on_stock.fault


def test_refusal_of_a_legacy_interface_names_the_way_out() -> None:
    line = f"{Q35} -device virtio-rng-pci,id=r,iommu_platform=on"
    (verdict,) = device(line, "r").verdicts
    assert verdict.on_stock.error == LEGACY_PCI
    assert verdict.remedies[0].startswith("disable-legacy=on")


def test_confidential_guest_is_not_told_to_do_without() -> None:
    (verdict,) = device(f"{SEV} -device intel-iommu {FS}", "fs0").verdicts
    assert verdict.driven.outcome is R
    assert not any("iommu_platform=off" in one for one in verdict.remedies)


@pytest.mark.parametrize(
    ("machine", "remedies"), [(Q35, ["the fork", "iommu_platform=off"]), (SEV, ["the fork"])]
)
def test_fault_of_stock_has_a_remedy(machine: str, remedies: list[str]) -> None:
    (verdict,) = device(f"{machine} {FS},iommu_platform=on", "fs0").verdicts
    assert ends(verdict) == (R, W)
    assert verdict.remedies == remedies


def test_device_that_only_the_fork_has_has_no_revision_0() -> None:
    line = (
        "qemu-system-s390x -nodefaults -chardev socket,id=c,path=/b "
        "-device vhost-user-blk-ccw,chardev=c,id=b,max_revision=0"
    )
    (verdict,) = device(line, "b", "b=none").verdicts
    assert verdict.driven.outcome is R
    assert verdict.remedies == ["max_revision=1 or higher"]


def test_device_that_only_the_fork_has() -> None:
    found = device(
        "qemu-system-s390x -nodefaults -chardev socket,id=c,path=/b "
        "-device vhost-user-blk-ccw,chardev=c,id=b",
        "b",
    )
    assert found.missing == "stock QEMU"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("-M q35 -device virtio-blk-pcie", "unknown device 'virtio-blk-pcie': did you mean"),
        ("-M q35 -device frobnicator", "unknown device 'frobnicator'"),
        ("-M q36", "unknown machine type 'q36'"),
        ("qemu-system-aarch64 -m 1", "qemu-system-aarch64 has no default machine type"),
        ("-M q35 -device", "-device: its value is missing"),
        ("-M q35 -device {x", "this JSON can't be read"),
    ],
)
def test_what_qemu_does_not_have_is_one_line(line: str, error: str) -> None:
    with pytest.raises(UsageError) as caught:
        explanation(line)
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("fs0", "--backend fs0: expected ID=FEATURES"),
        ("fs0=", "--backend fs0=: expected ID=FEATURES"),
        ("fs0=ACCESS_PLATFROM", "unknown feature 'ACCESS_PLATFROM': did you mean ACCESS_PLATFORM"),
        ("fs0=0xzz", "--backend: 0xzz is no number"),
        ("fs1=none", "unknown back-end 'fs1': did you mean fs0"),
    ],
)
def test_wrong_backend_is_one_line(told: str, error: str) -> None:
    with pytest.raises(UsageError) as caught:
        explanation(f"{Q35} {FS}", told)
    assert str(caught.value).startswith(error)


def test_confidential_guest_behind_a_viommu_is_not_told_to_do_without_the_bit() -> None:
    (verdict,) = device(f"{SEV} -device intel-iommu {FS}", "fs0").verdicts
    assert ends(verdict) == (R, R)
    assert verdict.remedies == [remedy.TRANSLATES, remedy.NO_VIOMMU, remedy.BYPASS]


@pytest.mark.parametrize("other", [FS, "-device virtio-rng-pci,id=fs0,bus=rp0"])
def test_simulated_confidential_guest_has_no_viommu(other: str) -> None:
    """Whatever the device is, QEMU says that first; stock QEMU simulates nothing."""
    simulated = SEV.replace("sev-guest", "x-confidential-sim")
    (verdict,) = device(f"{simulated} -device intel-iommu {other}", "fs0").verdicts
    assert ends(verdict) == (R, R)
    assert "can't be used with x-confidential-sim" in verdict.driven.why
    assert verdict.remedies == [remedy.NO_VIOMMU]
    assert verdict.on_stock.error == NO_SIMULATION
    (without,) = device(f"{simulated} {other}", "fs0").verdicts
    assert ends(without) == (R, W)


def test_zpci_of_a_simulated_confidential_guest_is_no_viommu() -> None:
    line = (
        "qemu-system-s390x -nodefaults -M confidential-guest-support=c "
        "-object x-confidential-sim,id=c -chardev socket,id=c,path=/f "
        "-device vhost-user-fs-pci,chardev=c,tag=t,id=fs0"
    )
    (verdict,) = device(line, "fs0").verdicts
    assert "the bus translates" in verdict.driven.why
    assert verdict.remedies == [remedy.TRANSLATES]
