"""A plug that fails leaves nothing behind, and neither does an unplug."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from qap.machine.machine import Machine, address_spaces
from qap.verify.kit.lab import Lab
from qap.vhost_user.misbehave import HangUp
from qap.vhost_user.protocol import FrontendRequest

WARM_UP = 20
# What is freed goes back to the kernel at once: otherwise a leak can hide for long in memory
# that the heap has to spare, and one plug needs 10 MiB for a moment.
EXACT_HEAP = ":".join(
    (
        "glibc.malloc.arena_max=1",
        "glibc.malloc.mmap_threshold=4096",
        "glibc.malloc.top_pad=0",
        "glibc.malloc.trim_threshold=0",
    )
)


@pytest.fixture(autouse=True)
def exact_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resident memory grows with what is allocated, and by nothing else."""
    monkeypatch.setenv("GLIBC_TUNABLES", EXACT_HEAP)


def spaces(machine: Machine) -> Counter[str]:
    return Counter(address_spaces(machine.qmp.hmp("info mtree -f")))


def mtree_lines(machine: Machine) -> int:
    return len(machine.qmp.hmp("info mtree").splitlines())


def grown(machine: Machine, fails: Callable[[], str], times: int = 20) -> float:
    """Bytes of resident memory that a failure takes, on average after a warm-up."""
    for _ in range(times // 2):
        assert fails() != ""
    before = machine.resident()
    for _ in range(times):
        assert fails() != ""
    return (machine.resident() - before) / times


@pytest.mark.parametrize(
    ("times", "properties"),
    [
        pytest.param(200, {}, id="translated"),
        pytest.param(50, {"modern_pio_notify": True}, id="translated-pio-notify"),
        pytest.param(50, {"queue_size": 3}, id="bad-queue-size"),
    ],
)
def test_failed_hotplug_gives_everything_back(
    lab: Lab, times: int, properties: dict[str, Any]
) -> None:
    """AddressSpaces and `info mtree` as before; RSS grows by less than 1 MiB after a warm-up.

    intel-iommu keeps one AddressSpace for a bus and devfn by design: hence the warm-up.
    A failed device_add takes QEMU 60 ms, nearly all of it in drain_call_rcu().
    """
    backend = lab.backend("vhost-user-fs", access_platform=False)
    machine = lab.machine(viommu="intel-iommu")
    device = lab.device("vhost-user-fs", backend, **properties)

    def fail(count: int) -> None:
        for _ in range(count):
            assert machine.refusal(device) != ""

    fail(WARM_UP)
    before = spaces(machine), mtree_lines(machine), machine.resident()
    fail(times)
    after = spaces(machine), mtree_lines(machine), machine.resident()
    assert after[0] == before[0]
    assert after[1] == before[1]
    if lab.build.profile != "sanitize":  # AddressSanitizer keeps freed memory in quarantine
        assert after[2] - before[2] < 1 << 20


def test_first_failed_hotplug_adds_no_virtio_address_space(lab: Lab) -> None:
    """What the warm-up of the test above could hide: the device's own go at once."""
    backend = lab.backend("vhost-user-fs", access_platform=False)
    machine = lab.machine(viommu="intel-iommu")
    assert machine.refusal(lab.device("vhost-user-fs", backend)) != ""
    assert not [name for name in spaces(machine) if name.startswith("virtio-pci")]


def test_failed_back_end_gives_its_queues_back(lab: Lab) -> None:
    """It hangs up when asked for its features: 1023 queues are 128 KiB each time."""
    backend = lab.backend("vhost-user-fs", HangUp(request=FrontendRequest.GET_FEATURES))
    machine = lab.machine()
    device = lab.device("vhost-user-fs", backend, num_request_queues=1022)
    assert grown(machine, lambda: machine.refusal(device)) < 1 << 14


def test_failed_network_device_gives_its_name_back(lab: Lab) -> None:
    """Its name is its id, here of 16 KiB; a queue of 3 buffers is refused."""
    machine = lab.machine()
    device = {"driver": "virtio-net-pci", "bus": "port0", "rx_queue_size": 3, "id": "n" * (1 << 14)}
    assert grown(machine, lambda: machine.refusal(device)) < 1 << 12


def test_legacy_device_with_pio_notify_unplugs(lab: Lab) -> None:
    """modern-pio-notify=on means nothing to a legacy device, and must not crash QEMU."""
    machine = lab.machine()
    before = spaces(machine)
    device = {
        "driver": "virtio-rng-pci",
        "id": "dut",
        "bus": "port0",
        "disable-legacy": "off",
        "disable-modern": True,
        "modern-pio-notify": True,
    }
    assert machine.refusal(device) == ""
    machine.qmp.execute("device_del", id="dut")
    # Without a guest to let go, ACPI hot-plug ejects what is pending at reset.
    machine.qmp.execute("system_reset")
    machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", 10)
    assert not [name for name in spaces(machine) - before if name.startswith("virtio-pci")]
