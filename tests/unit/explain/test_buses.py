"""Which bus translates."""

import pytest

from qap.oracle.fence import Outcome

from .lines import device, explanation

VTD = "-device intel-iommu"
RNG = "-device virtio-rng-pci,id=rng0"
PXB = "-device pxb-pcie,id=p -device pcie-root-port,id=r,bus=p"
PXB_BYPASS = PXB.replace("id=p ", "id=p,bypass_iommu=on ")


@pytest.mark.parametrize(
    ("line", "translated"),
    [
        (f"-M q35 {RNG}", False),
        (f"-M q35 {VTD} {RNG}", True),
        (f"-M q35 {RNG} {VTD}", True),
        (f"-M q35 -device amd-iommu {RNG}", True),
        (f"-M q35 -device virtio-iommu-pci {RNG}", True),
        (f"-M q35 -device virtio-iommu {RNG}", True),
        (f"-M pc -device virtio-iommu-pci {RNG}", True),
        (f"-M q35,default-bus-bypass-iommu=on {VTD} {RNG}", False),
        (f"-M q35,default_bus_bypass_iommu=true {VTD} {RNG}", False),
        (f"-M q35 {VTD} -device pcie-root-port,id=rp0 {RNG},bus=rp0", True),
        (f"-M q35 {VTD} {PXB} {RNG},bus=r", True),
        (f"-M q35 {VTD} {PXB_BYPASS} {RNG},bus=r", False),
        (f"-M q35 {VTD} {PXB_BYPASS} {RNG},bus=pcie.0", True),
        (f"-M q35,default-bus-bypass-iommu=on {VTD} {PXB} {RNG},bus=r", True),
        (
            f"-M q35 {VTD} {PXB_BYPASS} -device pcie-pci-bridge,id=b,bus=r {RNG},bus=b",
            False,
        ),
        # A device behind a conventional bridge is taken for one on the bus above it: what its
        # pxb says of bypassing is not asked.
        (
            f"-M pc -device virtio-iommu-pci -device pxb,id=p,bypass_iommu=on {RNG},bus=p",
            True,
        ),
        (f"-M q35 {VTD} -device i82801b11-bridge,id=b -device pci-bridge,id=c,bus=b {RNG},bus=c",
         True),
        (f"qemu-system-aarch64 -M virt {RNG}", False),
        (f"qemu-system-aarch64 -M virt,iommu=smmuv3 {RNG}", True),
        (f"qemu-system-aarch64 -M virt,iommu=none {RNG}", False),
        (f"qemu-system-aarch64 -M virt,iommu=smmuv3,default-bus-bypass-iommu=on {RNG}", False),
        (f"qemu-system-riscv64 -M virt,iommu-sys=on {RNG}", True),
        (f"qemu-system-ppc64 {RNG}", True),
        (f"qemu-system-s390x {RNG}", True),
        ("qemu-system-s390x -device virtio-rng-ccw,id=rng0", False),
        (f"-M microvm,pcie=on {RNG}", False),
        ("-M microvm -device virtio-rng-device,id=rng0", False),
    ],
)  # fmt: skip
def test_translation(line: str, translated: bool) -> None:
    nodefaults = line.replace("-M ", "-nodefaults -M ", 1)
    if "-M " not in line:
        nodefaults = f"{line} -nodefaults"
    assert device(nodefaults, "rng0").translation.translated is translated


def test_bus_that_is_not_there_is_left() -> None:
    found = explanation(f"-M q35 {VTD} {RNG},bus=nowhere,iommu_platform=on")
    assert found.left == ["rng0: there is no bus nowhere that is known"]
    assert found.predictions[0].translation.translated is None


def test_machine_without_pci_has_no_place_for_a_pci_device() -> None:
    assert explanation(f"-M microvm {RNG}").left == [
        "rng0: there is no bus a PCI bus that is known"
    ]


def test_machine_that_is_not_known_is_left() -> None:
    found = explanation(f"qemu-system-hppa -M B160L {RNG}")
    assert found.left == ["-machine B160L of hppa: not known, so neither are its buses"]
    assert len(found.predictions[0].verdicts) == 1


@pytest.mark.parametrize("pxb", ["pxb-pcie,id=p", "pxb-pcie,id=p -device pxb-pcie,id=q"])
def test_device_that_does_not_say_its_bus_goes_to_a_pxb_and_is_refused(pxb: str) -> None:
    for line in (f"-M q35 -device {pxb} {RNG}", f"-M q35 -device {pxb} {RNG},bus=p"):
        (verdict,) = device(line, "rng0").verdicts
        assert verdict.plugged.outcome is Outcome.REFUSED
        assert verdict.on_stock.error == "PCI: Only PCI/PCIe bridges can be plugged into pxb-pcie"
    (before,) = device(f"-M q35 {RNG} -device {pxb}", "rng0").verdicts
    assert before.plugged.outcome is Outcome.WORKS


@pytest.mark.parametrize("iommu", ["intel-iommu", "amd-iommu"])
def test_iommu_that_a_machine_does_not_take_is_left(iommu: str) -> None:
    found = explanation(f"-M pc -device {iommu} {RNG}")
    assert found.left == [f"{iommu}: a machine pc does not take it"]
    assert found.predictions[0].translation.translated is False
