"""Each remedy that a refusal names works, or leads to one that does."""

import re
from dataclasses import dataclass, field, replace
from typing import Self

import pytest

from qap.machine.machine import QemuDied
from qap.machine.spec import Spec
from qap.oracle.fence import REFUSAL_PHRASE
from qap.verify.kit.lab import Lab
from qap.vhost_user.backends import backend

MOST_STEPS = 3
USE = re.compile(r"; use (.+)")
HINT = re.compile(r"^Set (\S+) to (\S+)$", re.MULTILINE)
GLOBAL = "-global "
TYPE = "the device's non-transitional type"
NO_VIOMMU = "no vIOMMU"
BYPASS = "a root bus that bypasses it (bypass_iommu=on)"
# With this QEMU ends without KVM, when all devices are plugged.
LAST = "accelerator does not support confidential guest"
SET = re.compile(r"([\w-]+)=(\w+)( or higher)?")


@dataclass(frozen=True)
class Attempt:
    """A command line that QEMU may refuse.

    Attributes:
        emulator, machine: what runs.
        device: the device under test; its chardev, if it has one, is the back-end's.
        kind: of the back-end.
        translates, modern: whether the back-end offers ACCESS_PLATFORM, VERSION_1.
        others: devices before it.
        extra: more options.
        accel, cpu: as in Spec.
    """

    machine: str
    device: dict[str, object]
    emulator: str = "qemu-system-x86_64"
    kind: str = "vhost-user-blk"
    translates: bool = False
    modern: bool = True
    others: tuple[dict[str, object], ...] = ()
    extra: tuple[str, ...] = field(default=())
    accel: str = "qtest"
    cpu: str | None = None

    def said(self, lab: Lab) -> str:
        """What QEMU says when it refuses this; "" if it takes all devices."""
        path = lab.folder / f"{len(lab.backends)}.sock"
        served = lab.owned.enter_context(
            backend(path, self.kind, access_platform=self.translates, version_1=self.modern)
        )
        lab.backends.append(served)
        spec = Spec(
            self.machine,
            self.accel,
            cpu=self.cpu,
            memory=128,
            devices=[*self.others, self.device],
            chardevs=[f"socket,id=backend,path={path}"],
            extra=self.extra,
        )
        try:
            lab.start(self.emulator, spec)
        except QemuDied as died:
            assert died.status == 1, f"QEMU ended with status {died.status}: {died.said}"
            return "" if LAST in died.said else died.said
        return ""

    def with_properties(self, **properties: object) -> Self:
        return replace(self, device={**self.device, **properties})

    def follow(self, remedy: str) -> Self:
        """What a user would try next, who does as the message says."""
        if remedy in ("a backend that does", "a backend that offers VIRTIO_F_ACCESS_PLATFORM"):
            return replace(self, translates=True)
        if remedy == "a backend that offers VIRTIO_F_VERSION_1":
            return replace(self, modern=True)
        if remedy in (NO_VIOMMU, BYPASS):
            return self._untranslated(without=remedy == NO_VIOMMU)
        if remedy == TYPE:
            driver = str(self.device["driver"]).removesuffix("-transitional")
            return self.with_properties(driver=f"{driver}-non-transitional")
        if remedy.startswith(GLOBAL):
            return replace(self, extra=("-global", remedy.removeprefix(GLOBAL)))
        settings = [SET.fullmatch(setting) for setting in remedy.split(",")]
        assert all(settings), f"nobody can follow “{remedy}”"
        properties = {match[1]: value(match[2]) for match in settings if match}
        return self.with_properties(**properties)

    def _untranslated(self, *, without: bool) -> Self:
        """Without the vIOMMU, or with a root bus that bypasses it."""
        if without:
            return replace(self, others=())
        return replace(self, machine=f"{self.machine},default-bus-bypass-iommu=on")


def value(text: str) -> object:
    """A property's value as -device takes it in JSON."""
    if text.isdigit():
        return int(text)
    return text


def remedies(said: str) -> list[str]:
    """What a message says may be done."""
    named = [remedy for line in USE.findall(said) for remedy in line.strip().split(", or ")]
    return named + [f"{name}={setting}" for name, setting in HINT.findall(said)]


BLK: dict[str, object] = {
    "driver": "vhost-user-blk-pci",
    "id": "dut",
    "chardev": "backend",
    "iommu_platform": "on",
}
RNG: dict[str, object] = {"driver": "virtio-rng-pci", "id": "dut", "iommu_platform": "on"}
S390X = "qemu-system-s390x"
CCW = "s390-ccw-virtio"
VIOMMUS: dict[str, dict[str, object]] = {
    "intel": {"driver": "intel-iommu"},
    "amd": {"driver": "amd-iommu"},
    "virtio": {"driver": "virtio-iommu-pci"},
}
UNTRANSLATED = {
    name: Attempt("q35", {**BLK, "disable-legacy": "on"}, others=(device,))
    for name, device in VIOMMUS.items()
}
LEGACY = {
    "pci": Attempt("pc", {**RNG, "disable-legacy": "off"}),
    "pci auto": Attempt("pc", RNG),
    "pci only": Attempt("pc", {**RNG, "disable-legacy": "off", "disable-modern": "on"}),
    "pci transitional type": Attempt("pc", {**RNG, "driver": "virtio-rng-pci-transitional"}),
    "mmio": Attempt("microvm", {**RNG, "driver": "virtio-rng-device"}),
    "ccw": Attempt(CCW, {**RNG, "driver": "virtio-rng-ccw", "max_revision": 0}, S390X),
}
# Needs neither KVM nor such a host to be made.
SEV = ("-object", "sev-guest,id=cg0,cbitpos=47,reduced-phys-bits=1")
# Stopped, as there is nothing to boot.
SIMULATED = ("-S", "-object", "x-confidential-sim,id=cg0")
OF_CG0 = "confidential-guest-support=cg0"
SEV_BEHIND = {
    name: Attempt(f"q35,{OF_CG0}", {**BLK, "disable-legacy": "on"}, others=(viommu,), extra=SEV)
    for name, viommu in {
        **VIOMMUS,
        "virtio, not behind itself": {**VIOMMUS["virtio"], "iommu_platform": "off"},
    }.items()
}
DEMANDS = {
    **{
        f"SEV, {name}": replace(LEGACY[name], machine=f"pc,{OF_CG0}", extra=SEV)
        for name in ("pci", "pci only", "pci transitional type")
    },
    "SE, ccw": replace(
        LEGACY["ccw"], machine=f"{CCW},{OF_CG0}", extra=SIMULATED, accel="tcg", cpu="max"
    ),
    # The host bridge translates: there is no vIOMMU to leave out.
    "SE, zPCI": Attempt(f"{CCW},{OF_CG0}", BLK, S390X, extra=SIMULATED, accel="tcg", cpu="max"),
}
OFF = {"iommu_platform": "off"}
PORT: dict[str, object] = {"driver": "pcie-root-port", "id": "port0"}
FS: dict[str, object] = {"id": "dut", "chardev": "backend", "tag": "share"}
OTHER: dict[str, object] = {"id": "dut", "chardev": "backend"}
LEGACY_BACK_ENDS = {
    "pci transitional": Attempt("pc", {**BLK, "disable-legacy": "off"}, modern=False),
    "pci auto": Attempt("pc", BLK, modern=False),
    "pci modern": Attempt("pc", {**BLK, "disable-legacy": "on"}, modern=False),
    "pci modern, off": Attempt("pc", {**BLK, **OFF, "disable-legacy": "on"}, modern=False),
    "pci port, off": Attempt("q35", {**BLK, **OFF, "bus": "port0"}, others=(PORT,), modern=False),
    "pci non-transitional": Attempt(
        "pc", {**BLK, "driver": "vhost-user-blk-pci-non-transitional"}, modern=False
    ),
}
# These have no legacy interface, whatever the user says.
MODERN_ONLY = {
    f"{driver}, {asked}": Attempt(
        CCW if driver.endswith("ccw") else "pc",
        {**own, "driver": driver, "iommu_platform": asked},
        S390X if driver.endswith("ccw") else "qemu-system-x86_64",
        kind,
        modern=False,
    )
    for driver, kind, own in (
        ("vhost-user-fs-pci", "vhost-user-fs", FS),
        ("vhost-user-fs-ccw", "vhost-user-fs", FS),
        ("vhost-user-vsock-pci", "vhost-user-vsock", OTHER),
        ("vhost-user-vsock-pci-non-transitional", "vhost-user-vsock", OTHER),
        ("vhost-user-blk-ccw", "vhost-user-blk", OTHER),
    )
    for asked in ("on", "off")
}
MODERN_ONLY |= {
    f"{name}, 5.0": replace(attempt, machine=f"{CCW}-5.0")
    for name, attempt in MODERN_ONLY.items()
    if attempt.machine == CCW
}


def assert_remedies_work(lab: Lab, attempt: Attempt, steps: int = MOST_STEPS) -> None:
    """Follow all that QEMU says, until it takes the device."""
    said = attempt.said(lab)
    if not said:
        return
    assert steps, f"still refused: {said}"
    named = remedies(said)
    assert named, f"no remedy in: {said}"
    for remedy in named:
        assert_remedies_work(lab, attempt.follow(remedy), steps - 1)


@pytest.mark.parametrize("attempt", UNTRANSLATED.values(), ids=UNTRANSLATED.keys())
def test_remedy_for_a_back_end_that_cannot_translate_works(lab: Lab, attempt: Attempt) -> None:
    assert "behind an IOMMU" in attempt.said(lab)
    assert_remedies_work(lab, attempt)


@pytest.mark.parametrize("attempt", SEV_BEHIND.values(), ids=SEV_BEHIND.keys())
def test_remedy_for_a_confidential_guest_behind_a_viommu_works(lab: Lab, attempt: Attempt) -> None:
    """Its driver demands the bit: not the device does without it, but the bus without a vIOMMU."""
    named = remedies(attempt.said(lab))
    assert named[-2:] == [NO_VIOMMU, BYPASS]
    assert not any("iommu_platform" in remedy for remedy in named)
    assert_remedies_work(lab, attempt)


@pytest.mark.parametrize("attempt", DEMANDS.values(), ids=DEMANDS.keys())
def test_confidential_guest_is_not_told_to_do_without_the_bit(lab: Lab, attempt: Attempt) -> None:
    said = attempt.said(lab)
    (named,) = remedies(said)
    assert REFUSAL_PHRASE in said
    assert "iommu" not in named
    assert_remedies_work(lab, attempt)


@pytest.mark.parametrize("attempt", LEGACY.values(), ids=LEGACY.keys())
def test_remedy_for_a_legacy_interface_works(lab: Lab, attempt: Attempt) -> None:
    """The message names the user's device and its bus."""
    said = attempt.said(lab)
    assert f"{attempt.device['driver']} 'dut' on bus '" in said
    assert REFUSAL_PHRASE in said
    assert_remedies_work(lab, attempt)


@pytest.mark.parametrize("attempt", MODERN_ONLY.values(), ids=MODERN_ONLY.keys())
def test_type_without_a_legacy_interface_needs_another_back_end(lab: Lab, attempt: Attempt) -> None:
    """Nothing is said of an interface that there isn't."""
    said = attempt.said(lab)
    assert remedies(said) == ["a backend that offers VIRTIO_F_VERSION_1"]
    assert "its legacy interface" not in said
    assert_remedies_work(lab, attempt)


@pytest.mark.parametrize("attempt", LEGACY_BACK_ENDS.values(), ids=LEGACY_BACK_ENDS.keys())
def test_device_whose_back_end_is_legacy_needs_another_one(lab: Lab, attempt: Attempt) -> None:
    """Nobody is sent from one setting to the other and back."""
    assert "a backend that offers VIRTIO_F_VERSION_1" in attempt.said(lab)
    assert_remedies_work(lab, attempt)


def test_iommu_that_would_translate_its_own_ring_is_refused(lab: Lab) -> None:
    """5.13: to translate an address it would have to read the ring that is at that address."""
    viommu = {**RNG, "driver": "virtio-iommu-pci"}
    attempt = Attempt("q35", viommu)
    assert "an IOMMU can't translate its own accesses" in attempt.said(lab)
    assert_remedies_work(lab, attempt)


def test_iommu_on_a_bus_that_bypasses_it_plugs(lab: Lab) -> None:
    """There it translates what is on other root buses, and its own addresses are physical."""
    attempt = Attempt("q35,default-bus-bypass-iommu=on", {**RNG, "driver": "virtio-iommu-pci"})
    assert attempt.said(lab) == ""
