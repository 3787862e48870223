"""A failed plug leaks nothing, and neither does an unplug."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from qap.machine.machine import Machine, address_spaces
from qap.verify.kit.lab import Lab
from qap.vhost_user.misbehave import HangUp
from qap.vhost_user.protocol import FrontendRequest

WARM_UP = 20
# Freed memory goes back to the kernel at once. Otherwise free memory of the heap can hide a
# leak for long: a plug needs 10 MiB for a moment.
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
    """Make resident memory follow what is allocated."""
    monkeypatch.setenv("GLIBC_TUNABLES", EXACT_HEAP)


def spaces(machine: Machine) -> Counter[str]:
    return Counter(address_spaces(machine.qmp.hmp("info mtree -f")))


def mtree_lines(machine: Machine) -> int:
    return len(machine.qmp.hmp("info mtree").splitlines())


def grown(machine: Machine, fails: Callable[[], str], times: int = 20) -> float:
    """Growth of resident memory per failure in bytes, on average after a warm-up."""
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
    A failed device_add takes QEMU 60 ms, almost all in drain_call_rcu().
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
    """The device's own AddressSpaces, which the warm-up of the test above could hide."""
    backend = lab.backend("vhost-user-fs", access_platform=False)
    machine = lab.machine(viommu="intel-iommu")
    assert machine.refusal(lab.device("vhost-user-fs", backend)) != ""
    assert not [name for name in spaces(machine) if name.startswith("virtio-pci")]


def test_failed_back_end_gives_its_queues_back(lab: Lab) -> None:
    """The back-end hangs up at GET_FEATURES; a leak of 1023 queues would be 128 KiB each time."""
    backend = lab.backend("vhost-user-fs", HangUp(request=FrontendRequest.GET_FEATURES))
    machine = lab.machine()
    device = lab.device("vhost-user-fs", backend, num_request_queues=1022)
    assert grown(machine, lambda: machine.refusal(device)) < 1 << 14


def test_failed_network_device_gives_its_name_back(lab: Lab) -> None:
    """The name is the device's id, here of 16 KiB. It is refused for a queue size of 3."""
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
    # There is no guest that ejects the device; ACPI hot-plug does so at reset.
    machine.qmp.execute("system_reset")
    machine.qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == "dut", 10)
    assert not [name for name in spaces(machine) - before if name.startswith("virtio-pci")]
