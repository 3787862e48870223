"""The device side of the fence: a driver without ACCESS_PLATFORM is not served."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qap.hw.pci import STATUS
from qap.hw.s390x_cpu import Cpu
from qap.hw.subchannel import ChannelSubsystem
from qap.machine.device import Device
from qap.machine.guest_memory import GuestMemory
from qap.machine.machine import Machine, QemuDied
from qap.machine.qmp import QmpRefused
from qap.matrix.cell import named
from qap.matrix.group import Group
from qap.matrix.result import CellResult
from qap.oracle.features import FeatureBit
from qap.oracle.fence import REFUSAL_PHRASE
from qap.oracle.negotiation import ACCESS_PLATFORM, VERSION_1
from qap.oracle.status import Status
from qap.verify.kit.checks import UP_TO_FEATURES_OK, is_broken
from qap.verify.kit.lab import Lab
from qap.virtio.ccw import VirtioCcw
from qap.virtio.driver import Behaviour, Driver
from qap.virtio.pci_modern import PciModern
from qap.virtio.queue import Buffer, Queue
from qap.virtio.split import SplitQueue
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

Start = Callable[..., tuple[Machine, Transport]]
MODERN_VARIANTS = ("pci modern", "mmio 2")
OLD_MACHINE = "pc-q35-9.2"
RNG_CCW: Device = {"driver": "virtio-rng-ccw", "id": "dut", "iommu_platform": True}
RNG_PCI: Device = {
    "driver": "virtio-rng-pci",
    "id": "dut",
    "bus": "port0",
    "disable-legacy": "on",
    "iommu_platform": True,
}
INSISTS = Behaviour(obeys=False).without(FeatureBit.ACCESS_PLATFORM)
LEGACY = Behaviour(supports=0, sets_features_ok=False)
# Checks of a ring, each a turn of QEMU's main loop, until a buffer counts as unserved.
LOOKS = 64
QUEUE_SIZE = 8
TOLD = "the driver did not accept VIRTIO_F_ACCESS_PLATFORM"
VOICE = re.compile(
    r"(?P<type>[\w-]+) '(?P<id>[^']+)' on bus '(?P<bus>[^']+)': "
    r"iommu_platform=true is not supported by the device: "
    r"(?P<reason>[^;]+); use (?P<remedy>.+), or iommu_platform=off"
)
# PCI 6.2.3: the function asserts INTx.
STATUS_INTERRUPT = 1 << 3


@pytest.fixture
def start(lab: Lab) -> Start:
    """A machine of one of TRANSPORTS with an entropy device that asks for ACCESS_PLATFORM."""

    def started(
        name: str, machine: str = "", extra: tuple[str, ...] = (), **properties: object
    ) -> tuple[Machine, Transport]:
        variant = TRANSPORTS[name]
        variant = replace(
            variant, machine=machine or variant.machine, extra=(*variant.extra, *extra)
        )
        spec = variant.spec("virtio-rng", (), **{"iommu_platform": True, **properties})
        running = lab.owned.enter_context(
            Machine(lab.build.path(variant.emulator), spec, log=lab.log())
        )
        return running, variant.connect(running)

    return started


def is_served(driver: Driver, queue: Queue) -> bool:
    """Whether the device uses a buffer of this queue."""
    room = driver.memory.take(16)
    queue.add([Buffer(room, 16, writable=True)])
    driver.transport.notify(queue.index)
    return any(queue.take_used() for _ in range(LOOKS))


def serves(transport: Transport, behaviour: Behaviour | None = None) -> bool:
    """Whether a driver with this behaviour is served; by default it is well-behaved.

    A refused driver goes on from the status that it reads.
    """
    driver = Driver(transport, GuestMemory(transport.qtest), behaviour)
    status = driver.negotiate()
    queue = driver.queue(0, QUEUE_SIZE)
    transport.set_status(status | Status.DRIVER_OK)
    return is_served(driver, queue)


@pytest.mark.parametrize(
    "cell",
    [
        "q35/modern/virtio-blk/in-qemu/none/any/on/hot/insists",
        "q35/modern/virtio-blk/in-qemu/none/any/on/hot/one-write",
        "q35/modern/virtio-rng/in-qemu/none/any/on/hot/skips-features-ok",
        "q35/modern/virtio-rng/in-qemu/none/any/on/hot/accepts-nothing",
        "q35/modern/virtio-blk/in-qemu/none/any/on/hot/kicks-first",
        "q35/modern/vhost-user-blk/ap/none/any/on/hot/insists",
        "q35/modern/vhost-user-blk/ap/none/any/on/hot/one-write",
        "q35/modern/vhost-user-fs/ap/none/any/on/hot/skips-features-ok",
        "microvm/version-2/virtio-rng/in-qemu/none/any/on/cold/skips-features-ok",
        "microvm/version-2/virtio-blk/in-qemu/none/any/on/cold/one-write",
        "microvm/version-2/vhost-user-fs/ap/none/any/on/cold/insists",
        "microvm/version-2/virtio-scsi/in-qemu/none/any/on/cold/kicks-first",
        "s390-ccw-virtio/revision-1/virtio-rng/in-qemu/none/any/on/hot/insists",
        "s390-ccw-virtio/revision-2/virtio-blk/in-qemu/none/any/on/hot/one-write",
        "s390-ccw-virtio/revision-1/virtio-blk/in-qemu/none/any/on/hot/kicks-first",
        "s390-ccw-virtio/revision-2/vhost-user-net/ap/none/any/on/hot/accepts-nothing",
    ],
)
def test_driver_that_did_not_accept_is_never_served(lab: Lab, cell: str) -> None:
    """6.1: a device that offers ACCESS_PLATFORM may fail a driver that does not accept it.

    Neither a device in QEMU nor a vhost back-end uses its buffer or is told of its ring,
    and FEATURES_OK does not stay set (3.1.1, step 6).
    """
    results: list[CellResult] = []
    Group(lab.build, [named(cell)], results.append, debug=False).run()
    assert [problem.text for result in results for problem in result.problems] == []


def test_refused_driver_is_told_once(lab: Lab, start: Start) -> None:
    """In QEMU's log, with -d guest_errors: once for each reset, for any number of attempts."""
    _, transport = start("pci modern", extra=("-d", "guest_errors"))

    for resets in (1, 2):
        assert not serves(transport, INSISTS)
        transport.set_status(Status.FEATURES_OK | Status.DRIVER_OK)
        assert len(told(lab, to_user=False)) == resets
    assert serves(transport)
    assert len(told(lab, to_user=False)) == 2


@pytest.mark.parametrize("variant", ["pci modern", "mmio 2", "ccw 2"])
def test_user_is_told_of_a_refused_driver_once(lab: Lab, start: Start, variant: str) -> None:
    """Without any option, and with the device's id; a guest can't fill the log with it."""
    _, transport = start(variant)
    for _ in range(3):
        assert not serves(transport, INSISTS)
    (warning,) = told(lab, to_user=True)
    assert "virtio-rng" in warning
    assert "dut" in warning


def told(lab: Lab, *, to_user: bool) -> list[str]:
    """Lines that say that a driver was refused: warnings for the user, or those of the log."""
    lines = (lab.folder / "qemu.log").read_text().splitlines()
    return [line for line in lines if TOLD in line and ("warning:" in line) == to_user]


@pytest.mark.parametrize("variant", MODERN_VARIANTS)
def test_device_serves_again_after_a_reset(start: Start, variant: str) -> None:
    """2.1.2: a refused driver, or another one, may reset the device and try again."""
    _, transport = start(variant)
    assert [serves(transport, behaviour) for behaviour in (None, INSISTS, None, INSISTS)] == [
        True,
        False,
        True,
        False,
    ]


def test_property_lets_any_driver_pass(lab: Lab) -> None:
    """x-require-iommu-platform=off keeps the old behaviour: only FEATURES_OK is refused."""
    machine = lab.machine(qtest=True)
    assert machine.refusal({**RNG_PCI, "x-require-iommu-platform": False}) == ""
    assert serves(TRANSPORTS["pci modern"].connect(machine), INSISTS)


def test_old_machine_type_is_as_before(start: Start) -> None:
    """A guest that worked by accident still works on its machine type."""
    _, transport = start("pci modern", machine=OLD_MACHINE)
    assert serves(transport, INSISTS)


@pytest.mark.parametrize("variant", MODERN_VARIANTS)
def test_refused_first_status_is_no_reset(start: Start, variant: str) -> None:
    """If the first status is refused, the status stays 0, but no reset was written.

    So the queue stays enabled (2.4.1 is for a reset), and the same features are refused
    again (2.2.2).
    """
    _, transport = start(variant)
    transport.reset()
    transport.set_driver_features(VERSION_1)
    queue = SplitQueue(GuestMemory(transport.qtest), 0, QUEUE_SIZE)
    transport.enable_queue(0, queue.addresses)
    transport.set_status(Status.FEATURES_OK)
    assert not transport.status
    assert transport.queue_enabled(0)
    transport.set_status(Status.FEATURES_OK)
    assert not transport.status


def test_features_do_not_outlive_a_reset_on_mmio(start: Start) -> None:
    """2.4.1: a driver that writes no features after a reset accepts none."""
    _, transport = start("mmio 2")
    transport.reset()
    transport.set_driver_features(transport.device_features)
    for status in UP_TO_FEATURES_OK:
        transport.set_status(status)
    assert Status.FEATURES_OK in transport.status
    transport.reset()
    for status in UP_TO_FEATURES_OK:
        transport.set_status(status)
    assert Status.FEATURES_OK not in transport.status


@pytest.fixture
def legacy_only(lab: Lab, start: Start) -> Callable[[str], str]:
    """The error for iommu_platform=on with only a legacy interface; "" if it is accepted."""

    def said(transport: str) -> str:
        if transport == "ccw hot":
            return lab.s390x().refusal({**RNG_CCW, "max_revision": 0})
        if transport == "pci hot":
            return lab.machine().refusal({**RNG_PCI, "disable-legacy": "off"})
        try:
            if transport == "ccw cold":
                lab.s390x({**RNG_CCW, "max_revision": 0})
            else:
                start("mmio 1")
        except QemuDied as died:
            assert died.status == 1, died.said
            return died.said
        return ""

    return said


@pytest.mark.parametrize(
    ("transport", "names"),
    [
        ("mmio", ("virtio-rng-device 'dut'", "-global virtio-mmio.force-legacy=false")),
        ("ccw cold", ("virtio-rng-ccw 'dut'", "max_revision=1 or higher")),
        ("ccw hot", ("virtio-rng-ccw 'dut'", "max_revision=1 or higher")),
    ],
)
def test_device_with_only_a_legacy_interface_is_refused(
    legacy_only: Callable[[str], str], transport: str, names: tuple[str, str]
) -> None:
    """4.2.4, 4.3.1.2: its driver has 32 feature bits and can't accept bit 33.

    The error names the device, the reason and the remedy for this transport.
    """
    said = legacy_only(transport)
    wanted = (REFUSAL_PHRASE, "legacy interface", "VIRTIO_F_ACCESS_PLATFORM", *names)
    assert [text for text in wanted if text not in said] == []


def test_refusals_have_one_voice(legacy_only: Callable[[str], str]) -> None:
    """Each transport gives the same sentence and reason, with its own remedy."""
    said = {name: legacy_only(name) for name in ("pci hot", "mmio", "ccw hot")}
    matches = {name: VOICE.search(text) for name, text in said.items()}
    assert all(matches.values()), said
    assert len({match["reason"] for match in matches.values() if match}) == 1
    assert len({match["remedy"] for match in matches.values() if match}) == 3


def test_revision_0_is_fenced_on_request(lab: Lab) -> None:
    """4.3.2.1: at revision 0 no driver sees bit 33; the s390-ccw firmware is one.

    Such a driver is served unless x-fence-revision-0=on; a driver that accepts always is.
    """
    machine = lab.s390x({**RNG_CCW, "devno": "fe.0.0005"})
    fenced = {**RNG_CCW, "id": "fenced", "devno": "fe.0.0006", "x-fence-revision-0": True}
    assert machine.refusal(fenced) == ""
    channels = ChannelSubsystem(Cpu(machine.qtest, machine.serial))

    def is_served_at(number: int, revision: int) -> bool:
        subchannel = channels.find(number)
        return serves(VirtioCcw(subchannel, revision), None if revision else LEGACY)

    assert is_served_at(5, 0)
    assert not is_served_at(6, 0)
    assert is_served_at(6, 2)


@pytest.mark.parametrize(
    ("machine_type", "properties"),
    [
        ("s390-ccw-virtio", {"x-require-iommu-platform": False}),
        ("s390-ccw-virtio-9.2", {}),
    ],
)
def test_fence_at_revision_0_needs_the_fence(
    lab: Lab,
    machine_type: str,
    properties: dict[str, Any],
) -> None:
    """Properties that contradict each other, or the machine type, are named in the error."""
    machine = lab.s390x(machine=machine_type)
    device = {**RNG_CCW, "x-fence-revision-0": True, **properties}
    said = machine.refusal(device)
    assert "x-fence-revision-0=on needs x-require-iommu-platform=on" in said
    assert machine.refusal({**device, "x-require-iommu-platform": True}) == ""


def test_device_that_broke_for_another_reason_stays_broken(start: Start) -> None:
    """2.1.2: only a reset clears it, not a driver that writes its features again."""
    machine, transport = start("pci modern")
    driver = Driver(transport, GuestMemory(transport.qtest), Behaviour(sets_features_ok=False))
    driver.negotiate()
    queue = driver.queue(0, QUEUE_SIZE)
    driver.start()
    # 2.7.6: an available index that is invalid for such a small ring.
    transport.qtest.writew(queue.addresses.driver + 2, 10 * QUEUE_SIZE)
    transport.notify(0)
    assert is_broken(machine)
    for features in (VERSION_1, VERSION_1 | ACCESS_PLATFORM):
        transport.set_driver_features(features)
        assert is_broken(machine)
    transport.reset()
    assert serves(transport)


def test_reset_lowers_the_interrupt_line(start: Start) -> None:
    """2.4.1, 4.1.4.5: after a reset no interrupt is pending."""
    _, transport = start("pci modern")
    assert isinstance(transport, PciModern)
    assert serves(transport)
    assert transport.function.config_read(STATUS, 2) & STATUS_INTERRUPT
    transport.reset()
    assert not transport.function.config_read(STATUS, 2) & STATUS_INTERRUPT


def test_modern_ccw_device_needs_a_modern_back_end(lab: Lab) -> None:
    """With a back-end without VERSION_1 a CCW device has only its legacy interface."""
    backend = lab.backend("vhost-user-net")
    backend.features &= ~VERSION_1
    machine = lab.s390x()
    chardev = backend.path.stem
    machine.qmp.execute("netdev_add", type="vhost-user", id="net0", chardev=chardev)
    device = {"driver": "virtio-net-ccw", "netdev": "net0", "iommu_platform": True}
    with pytest.raises(QmpRefused, match=REFUSAL_PHRASE):
        machine.plug(device)
