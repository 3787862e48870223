"""What a scenario of the command line is, and what must become of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from qap.fork.build import Build
from qap.host.errors import UsageError
from qap.host.paths import Project
from qap.machine.asked import asked
from qap.machine.catalog import device_types
from qap.machine.guest.io_checks import HostData
from qap.oracle.features import FeatureBit
from qap.oracle.fence import Outcome
from qap.scenario.events import expected_loss, unmigratable
from qap.scenario.observation import Observation
from qap.scenario.proof import CHECKS
from qap.scenario.repro import scenario
from qap.scenario.reproducer import GUEST_CHECKS, PRESS, commands
from qap.scenario.request import Request
from qap.scenario.run import problems
from qap.scenario.scenario import Scenario
from qap.scenario.scenario_spec import scenario_device, scenario_spec


def a_scenario(device: str = "virtio-rng-pci", machine: str = "q35", **options: object) -> Scenario:
    return scenario(machine=machine, device=device, guest=None, **options)


def command(one: Scenario, build: Build | None = None) -> str:
    return Request.of(one, build or Build("lab")).command


@pytest.mark.parametrize(
    ("options", "fork", "base", "remedy"),
    [
        ({}, Outcome.UNSERVED, Outcome.UNSERVED, "iommu_platform=off for this device"),
        ({"iommu_platform": False}, Outcome.WORKS, Outcome.WORKS, ""),
        (
            {"confidential": "sev"},
            Outcome.UNSERVED,
            Outcome.UNSERVED,
            "none: a confidential guest can't use virtio-balloon",
        ),
        (
            {"confidential": "sev", "iommu_platform": False},
            Outcome.UNSERVED,
            Outcome.WORKS,
            "none: a confidential guest can't use virtio-balloon",
        ),
    ],
)
def test_balloon_is_served_without_the_bit_alone(
    options: dict[str, object], fork: Outcome, base: Outcome, remedy: str
) -> None:
    balloon = scenario(machine="q35", device="virtio-balloon-pci", guest=None, **options)
    assert balloon.expected().outcome == fork
    assert balloon.expected(is_base=True).outcome == base
    assert balloon.remedy(balloon.expected()) == remedy


def test_confidential_guest_demands_the_bit_of_any_device() -> None:
    """The base has no confidential guests."""
    one = a_scenario(confidential="sev", iommu_platform=False)
    assert one.expected().outcome == Outcome.UNSERVED
    assert one.remedy(one.expected()) == "iommu_platform=on"
    assert one.expected(is_base=True).outcome == Outcome.WORKS


@pytest.mark.parametrize(
    ("machine", "device", "kind", "said"),
    [
        ("s390-ccw-virtio", "virtio-rng-ccw", "tdx", "s390x can't be a TDX guest"),
        ("s390-ccw-virtio", "virtio-rng-ccw", "sev", "s390x can't be an SEV guest"),
        ("s390-ccw-virtio", "virtio-rng-ccw", "snp", "s390x can't be an SEV-SNP guest"),
        ("q35", "virtio-rng-pci", "se", "x86_64 can't be a Secure Execution guest"),
    ],
)
def test_guest_can_not_be_another_architectures_confidential_guest(
    machine: str, device: str, kind: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        a_scenario(device, machine, confidential=kind)


def test_command_and_title_name_the_kind() -> None:
    one = a_scenario(confidential="tdx")
    assert one.title == "q35, virtio-rng-pci, cold, as a TDX guest"
    assert command(one).endswith(" --confidential tdx")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (Build("lab"), ""),
        (Build("debian", is_base=True), " --profile debian --base"),
        (Build("lab", project=Project.here("10.2")), " --base-series 10.2"),
    ],
)
def test_command_names_the_build(build: Build, said: str) -> None:
    wanted = "./qap repro --machine q35 --device virtio-rng-pci"
    assert command(a_scenario(), build) == wanted + said


def test_command_asks_for_the_same_scenario() -> None:
    """Whatever is chosen."""
    options: dict[str, object] = {"plug": "hot", "viommu": "intel-iommu", "order": "after"}
    options |= {"behind": "pxb", "queues": 2, "iommu_platform": False}
    options |= dict.fromkeys(("iothread", "packed", "ats", "busy"), True)
    one = a_scenario("virtio-scsi-pci", "q35", **options)
    wanted = Request.of(one, Build("lab"))
    assert a_scenario(wanted.device, wanted.machine, **wanted.choices) == one
    for word in ("order after", "behind pxb", "queues 2", "iothread", "packed", "ats", "busy"):
        assert f" --{word}" in wanted.command


def test_cipher_is_between_its_chardev_and_the_device() -> None:
    one = a_scenario("vhost-user-crypto")
    spec = scenario_spec(one, Path("x/backend1.sock"), HostData(Path("x")), is_base=False)
    assert "cryptodev-vhost-user,id=between0,chardev=backend1" in spec.extra
    assert "between0" in [device.get("cryptodev") for device in spec.devices]


def test_function_of_s390x_does_not_migrate() -> None:
    one = a_scenario("virtio-blk-pci", "s390-ccw-virtio", migrate=True)
    assert unmigratable(one.kind, one.machine_type, one) == "s390-pci"
    other = a_scenario("virtio-blk-ccw", "s390-ccw-virtio", migrate=True)
    assert unmigratable(other.kind, other.machine_type, other) == ""


def test_network_is_between_its_chardev_and_the_device() -> None:
    """Its device has another's name, so the command has the catalogue's."""
    one = a_scenario("vhost-user-net", "q35")
    spec = scenario_spec(one, Path("x/backend1.sock"), HostData(Path("x")), is_base=False)
    assert "vhost-user,id=between0,chardev=backend1" in spec.extra
    assert [device.get("netdev") for device in spec.devices][-1] == "between0"
    assert command(one) == "./qap repro --machine q35 --device vhost-user-net"


def test_back_end_brings_its_own_disk() -> None:
    one = a_scenario("vhost-user-scsi-pci", "q35")
    spec = scenario_spec(one, Path("x/backend1.sock"), HostData(Path("x")), is_base=False)
    assert spec.blockdevs == []
    assert spec.devices[-1]["chardev"] == "backend1"


def test_key_is_pressed_where_the_keyboard_is(tmp_path: Path) -> None:
    """By hand: in the monitor, or at the back-end."""
    where = {"virtio-keyboard-pci": "sendkey a", "vhost-user-input-pci": PRESS}
    for device, presses in where.items():
        one = a_scenario(device, "q35")
        spec = replace(scenario_spec(one, None, HostData(tmp_path), is_base=False), boot=None)
        lines = commands(one, Path("/bin/true"), spec, None, tmp_path)
        assert [line for line in lines if presses in line] == [f"#   {presses}"]


def test_title_says_iommu_platform_once() -> None:
    assert a_scenario(iommu_platform=False).title == "q35, virtio-rng-pci, cold, iommu_platform=off"


@pytest.mark.parametrize(
    ("machine", "device", "said"),
    [
        ("q35", "vhost-user-fs-ccw", "q35 has pci, so no vhost-user-fs-ccw: try vhost-user-fs-pci"),
        (
            "s390-ccw-virtio",
            "vhost-user-i2c-device",
            "s390-ccw-virtio has ccw and pci, so no vhost-user-i2c-device: try vhost-user-i2c-pci",
        ),
        ("microvm", "virtio-vga", "virtio-vga has no mmio transport, which microvm has"),
        ("q35", "vhost-user-fs-pc", "unknown device 'vhost-user-fs-pc': did you mean .*-fs-pci"),
        ("pc-q35-9.2", "virtio-rng-pci", "pc-q35-9.2 is a version of q35, .* --machine q35"),
        ("pc-i440fx-9.2", "virtio-rng-pci", "is a version of pc, "),
        ("s390-ccw-virtio-9.2", "virtio-rng-ccw", "is a version of s390-ccw-virtio, "),
        ("q53", "virtio-rng-pci", "unknown machine 'q53': did you mean q35"),
    ],
)
def test_wrong_name_gets_the_right_one(machine: str, device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        a_scenario(device, machine)


@pytest.mark.parametrize("device", sorted(one for one, row in device_types().items() if row.guest))
def test_every_check_is_known_and_can_be_typed(device: str) -> None:
    check = device_types()[device].guest
    assert check is not None
    assert {check.check} <= set(CHECKS) & set(GUEST_CHECKS)


def test_device_of_pci_goes_to_the_pci_of_s390x() -> None:
    """Where each function is behind an IOMMU that can't be left out."""
    one = a_scenario("vhost-user-fs-pci", "s390-ccw-virtio")
    assert one.machine == "s390-pci"
    assert one.expected().outcome is Outcome.REFUSED
    assert command(one) == "./qap repro --machine s390-ccw-virtio --device vhost-user-fs-pci"
    assert a_scenario("virtio-blk-pci", "s390-ccw-virtio").expected().outcome is Outcome.WORKS


def test_back_end_that_is_told_to_translate_does() -> None:
    where = {"viommu": "amd-iommu", "plug": "hot"}
    device = "vhost-user-vsock-pci"
    assert a_scenario(device, "q35", **where).expected().outcome is Outcome.REFUSED
    able = a_scenario(device, "q35", features="ACCESS_PLATFORM", **where)
    assert able.expected().outcome is Outcome.WORKS
    assert command(able).endswith(" --backend ACCESS_PLATFORM")
    unable = a_scenario(device, "q35", features="ACCESS_PLATFORM,-REPLY_ACK", **where)
    assert unable.expected().outcome is Outcome.REFUSED


def test_packed_rings_are_expected_where_both_ends_can() -> None:
    assert a_scenario("virtio-blk-pci", packed=True).packed_expected
    assert not a_scenario("vhost-user-rng-pci", packed=True).packed_expected
    assert a_scenario("vhost-user-rng-pci", packed=True, features="RING_PACKED").packed_expected
    assert not a_scenario("vhost-user-rng-pci", features="RING_PACKED").packed_expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"behind": "pbx"}, "unknown place of q35 'pbx': did you mean pxb"),
        ({"behind": "root-bus", "plug": "hot"}, "a PCI Express root bus takes no device while"),
        ({"behind": "pxb", "bypass": True}, "pxb can't bypass"),
        ({"queues": 2}, "virtio-rng-pci has no property for how many queues"),
        ({"iothread": True}, "virtio-rng-pci is not served by an iothread"),
        ({"busy": True}, "nothing is read before the machine starts: add --hotplug"),
        ({"ats": True}, "ATS takes a device on PCI and --viommu"),
        ({"features": "ACCESS_PLATFORM"}, "virtio-rng-pci is in QEMU: it has no back-end"),
        ({"kill_backend": "idle"}, "virtio-rng is served by QEMU: it has no back-end to kill"),
        ({"fail_requests": True}, "virtio-rng has no x-fail-requests: leave out"),
        ({"migrate": True, "plug": "replug"}, "--migrate goes with --hotplug, or with neither"),
        ({"migrate": True, "plug": "hot", "busy": True}, "--busy is for the time of a plug: leave"),
        ({"migrate": True, "confidential": "sev"}, "a simulated confidential guest does not"),
    ],
)
def test_option_that_does_not_fit_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scenario(machine="q35", device="virtio-rng-pci", guest=None, **options)


@pytest.mark.parametrize(
    ("machine", "device", "options", "why"),
    [
        ("q35", "virtio-gpu-pci", {}, ""),
        ("q35", "vhost-user-fs-pci", {}, ""),
        ("q35", "vhost-user-fs-pci", {"backend": "ACCESS_PLATFORM"}, "virtiofsd, with which"),
        ("q35", "vhost-user-rng-pci", {"backend": "-VERSION_1"}, "a guest's driver wants"),
        ("q35", "vhost-user-gpio-pci", {}, "no guest here drives vhost-user-gpio"),
        ("q35", "virtio-blk-pci", {"no_guest": True}, "--no-guest"),
        ("q35", "vhost-user-net", {}, ""),
        ("q35", "vhost-user-net", {"viommu": "intel-iommu"}, ""),
        ("q35", "virtio-blk-pci", {"later": "moves-on"}, "--later is shown at device level"),
        ("s390-ccw-virtio", "virtio-gpu-ccw", {}, "no driver of Debian's kernel for s390x"),
    ],
)
def test_what_no_guest_shows_is_shown_at_device_level(
    machine: str, device: str, options: dict[str, object], why: str
) -> None:
    wanted = Request.model_validate({"machine": machine, "device": device, **options})
    said = wanted.without_guest(*asked(machine, device))
    assert said.startswith(why)
    assert bool(said) == bool(why)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"busy": True}, "--busy: that takes a guest, and --no-guest"),
        ({"guest": "x86_64"}, "--guest: that takes a guest, and --no-guest"),
        ({"fail_requests": True}, "--fail-requests: that takes a guest, and --no-guest"),
    ],
)
def test_what_takes_a_guest_is_refused_without_one(options: dict[str, object], said: str) -> None:
    wanted = Request.model_validate(
        {"machine": "q35", "device": "vhost-user-fs-pci", "no_guest": True, **options}
    )
    with pytest.raises(UsageError, match=said):
        wanted.without_guest(*asked(wanted.machine, wanted.device))


def test_stock_qemu_answers_no_requests() -> None:
    with pytest.raises(UsageError, match="stock QEMU has no x-fail-requests"):
        Request(machine="q35", device="vhost-user-fs-pci", fail_requests=True, base=True)


def test_only_the_device_is_on_a_pxb(tmp_path: Path) -> None:
    """QEMU puts what names no bus there, and refuses it."""
    where = {"behind": "pxb", "viommu": "virtio-iommu", "plug": "hot", "order": "after"}
    options: dict[str, object] = {**where, "busy": True}
    one = scenario(machine="q35", device="vhost-user-rng-pci", guest=None, **options)
    spec = scenario_spec(one, None, HostData(tmp_path), is_base=False)
    buses = {str(device["driver"]): device.get("bus") for device in spec.devices}
    assert buses == {
        "pxb-pcie": "pcie.0",
        "pcie-root-port": "pxb0",
        "virtio-iommu-pci": "pcie.0",
        "virtio-blk-pci": "pcie.0",
    }
    assert scenario_device(one, None)["bus"] == "pxbport0"


def test_simulated_confidential_guest_has_no_viommu() -> None:
    with pytest.raises(UsageError, match="can't have a vIOMMU: leave out --viommu"):
        a_scenario(confidential="sev", viommu="intel-iommu")


@pytest.mark.parametrize(
    ("device", "options", "said"),
    [
        ("vhost-user-blk-pci", {"migrate": True, "kill_backend": "idle"}, "are two cases: leave"),
        ("vhost-user-gpu-pci", {"migrate": True}, "does not hand over what was drawn: leave"),
        ("vhost-user-vsock-pci", {"kill_backend": "busy"}, "take --kill-backend idle"),
        ("vhost-user-blk-pci", {"kill_backend": "idle", "plug": "replug"}, "leave out --replug"),
    ],
)
def test_event_that_can_not_happen_is_refused(
    device: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        a_scenario(device, "q35", **options)


@pytest.mark.parametrize(
    ("device", "options", "io", "again"),
    [
        ("vhost-user-blk-pci", {"kill_backend": "busy"}, "waits", True),
        ("vhost-user-fs-pci", {"kill_backend": "idle", "plug": "hot"}, None, True),
        ("vhost-user-fs-pci", {"kill_backend": "idle"}, None, None),
        ("vhost-user-fs-pci", {"kill_backend": "busy", "plug": "hot"}, "waits", False),
        (
            "vhost-user-fs-pci",
            {"kill_backend": "busy", "plug": "hot", "fail_requests": True},
            "fails",
            True,
        ),
    ],
)
def test_what_becomes_of_a_guest_without_its_back_end(
    device: str, options: dict[str, object], io: str | None, again: bool | None
) -> None:
    one = a_scenario(device, "q35", **options)
    loss = expected_loss(one.kind, one)
    assert loss is not None
    assert (loss.io, loss.again) == (io, again)


def seen_of(**values: object) -> Observation:
    seen = Observation(Outcome.WORKS, features=[FeatureBit.ACCESS_PLATFORM.value])
    vars(seen).update(values)
    return seen


def test_guest_that_goes_on_otherwise_is_a_problem() -> None:
    killed = a_scenario("vhost-user-blk-pci", "q35", kill_backend="busy")
    assert problems(killed, seen_of(io="waits", again=True), "fork") == []
    assert problems(killed, seen_of(io="fails", again=True), "fork")
    assert problems(killed, seen_of(io="waits"), "fork")
    moved = a_scenario(migrate=True)
    assert problems(moved, seen_of(migrated=True), "fork") == []
    assert problems(moved, seen_of(migrated=False, migration_error="no"), "fork")
    stays = a_scenario("vhost-user-rng-pci", migrate=True)
    assert problems(stays, seen_of(migrated=False, migration_error="no"), "fork") == []
    assert problems(stays, seen_of(migrated=True), "fork")
