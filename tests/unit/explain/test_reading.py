"""Options that make devices, change them, or are not understood."""

import json
from pathlib import Path

import pytest

from qap.host.errors import UsageError

from .lines import FS, explanation

Q35 = "-nodefaults -M q35"


def drivers(line: str) -> list[str]:
    return [one.kind.driver for one in explanation(line).predictions]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{Q35} -device virtio-blk,id=a", ["virtio-blk"]),
        (f"{Q35} -drive file=a,if=virtio -drive file=b", ["virtio-blk"]),
        (f"{Q35} -vga virtio", ["virtio-vga"]),
        (f"{Q35} -virtfs local,path=/x,mount_tag=t,security_model=none", ["virtio-9p"]),
        (f"{Q35} -nic user,model=virtio", ["virtio-net"]),
        (f"{Q35} -nic user", []),
        (f"{Q35} -net nic,model=virtio -net user", ["virtio-net"]),
        (f"{Q35} -nic none", []),
        ("qemu-system-s390x -m 1G", ["virtio-net"]),
        ("qemu-system-s390x -nic none", []),
        ("qemu-system-s390x -nodefaults disk.img", ["virtio-blk"]),
        ("qemu-system-s390x -nodefaults -hda a -cdrom b", ["virtio-blk", "virtio-blk"]),
        ("qemu-system-aarch64 -M virt -drive file=a,if=none,id=a -nic user", ["virtio-net"]),
    ],
)
def test_other_options_make_devices(line: str, expected: list[str]) -> None:
    assert drivers(line) == expected
    assert explanation(line).left == []


def test_alias_is_of_the_target() -> None:
    (found,) = explanation("qemu-system-s390x -nodefaults -device virtio-rng").predictions
    assert found.kind.transport == "ccw"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (f"{Q35} -frobnicate a", "-frobnicate a: QEMU has no such option"),
        (f"{Q35} $EXTRA", "$EXTRA: what the shell puts there is not known"),
        (f"{Q35} -device virtio-rng-pci,bus=$BUS", "-device virtio-rng-pci,bus=$BUS: what the"),
        (f"{Q35} -readconfig /run/q.conf", "-readconfig /run/q.conf: the file is not here"),
        (f"{Q35} -set device.a.b=c", "-set device.a.b=c: there is no device 'a'"),
        (f"{Q35} -global nonsense", "-global nonsense: not DRIVER.PROPERTY=VALUE"),
        (f"{Q35} -device virtio-net-pci,netdev=n", "virtio-net-pci: there is no -netdev n"),
        ("-nodefaults -M q35,confidential-guest-support=s", "confidential-guest-support=s: there"),
        (f"{Q35} -balloon virtio", "-balloon virtio: today's QEMU does not have it"),
    ],
)
def test_what_is_not_understood_is_listed(line: str, left: str) -> None:
    assert [one for one in explanation(line).left if one.startswith(left)]


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("kvm -nodefaults", "kvm does not name its target: taken for x86_64"),
        ("-M pc-q35-rhel9.6.0", "pc-q35-rhel9.6.0 is a vendor's own: taken for the newest one"),
        ("-M pc-q35-noble", "pc-q35-noble is a distribution's own: taken for version 8.2"),
        ("-M pc-i440fx-9.0+pve0", "pc-i440fx-9.0+pve0 is a distribution's own: taken for 9.0"),
        ("-M pc-q35-10.1", "pc-q35-10.1 is newer than QEMU 10.0, on which this is founded"),
    ],
)
def test_what_is_taken_for_something_is_noted(line: str, note: str) -> None:
    assert note in explanation(line).notes


@pytest.mark.parametrize(
    ("machine", "version"),
    [
        ("pc-q35-9.2", (9, 2)),
        ("pc-q35-9.2.1", (9, 2)),
        ("pc-i440fx-jammy", (6, 2)),
        ("pc-q35-noble-v2", (8, 2)),
        ("q35", None),
        ("pc-i440fx-9.0+pve0", (9, 0)),
    ],
)
def test_version_of_a_machine_type(machine: str, version: tuple[int, int] | None) -> None:
    assert explanation(f"-nodefaults -M {machine}").machine.version == version


CONFIG = """\
# a comment
[machine]
  type = "q35"

[device "rp0"]
  driver = "pcie-root-port"

[object "sev0"]
  qom-type = "sev-guest"

[chardev "c0"]
  backend = "socket"
  path = "/fs.sock"

[device "fs0"]
  driver = "vhost-user-fs-pci"
  chardev = "c0"
  bus = "rp0"

[global]
  driver = "virtio-device"
  property = "iommu_platform"
  value = "on"

[boot-opts]
  strict = "on"
"""


def test_configuration_file_beside_a_command_line(tmp_path: Path) -> None:
    (tmp_path / "qemu.conf").write_text(CONFIG)
    line = "-nodefaults -readconfig /run/elsewhere/qemu.conf"
    found = explanation(line, folder=tmp_path)
    (fs,) = found.predictions
    assert (fs.name, fs.bus, fs.requested_by) == (
        "fs0",
        "rp0",
        "-global virtio-device.iommu_platform=on",
    )
    assert found.left == []


def test_configuration_file_alone() -> None:
    from qap.explain.explanation import explain

    found = explain(CONFIG.encode(), "qemu.conf", Path(), {})
    assert [one.name for one in found.predictions] == ["fs0"]
    assert found.notes == ["the file does not name its target: taken for x86_64"]


def test_line_that_is_none_of_a_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "q.conf").write_text("[machine]\ntype = q35\n")
    with pytest.raises(UsageError, match=r"q.conf: line 2: not \[group"):
        explanation("-readconfig q.conf", folder=tmp_path)


HMP = """
(qemu) chardev-add socket,id=c0,path=/fs.sock
(qemu) device_add vhost-user-fs-pci,id=fs0,chardev=c0,tag=share
Error: something
"""
CHARDEV = {"type": "unix", "data": {"path": "/fs.sock"}}
COMMANDS: list[dict[str, object]] = [
    {"return": {}},
    {
        "execute": "chardev-add",
        "arguments": {"id": "c0", "backend": {"type": "socket", "data": {"addr": CHARDEV}}},
    },
    {
        "execute": "device_add",
        "arguments": {
            "driver": "vhost-user-fs-pci",
            "id": "fs0",
            "chardev": "c0",
            "iommu_platform": True,
        },
    },
]
QMP = "\n".join(json.dumps(one) for one in COMMANDS)
PRETTY = json.dumps(
    {"arguments": {"driver": "vhost-user-fs-pci", "id": "fs0"}, "execute": "device_add"}, indent=2
)


@pytest.mark.parametrize(
    ("after", "requested", "names"),
    [
        (HMP, False, ("fs0", "c0", "/fs.sock")),
        (QMP, True, ("fs0", "c0", "/fs.sock")),
        (f"-> {PRETTY}", False, ("fs0",)),
        ("virsh qemu-monitor-command vm --hmp 'device_add vhost-user-fs-pci,id=fs0'", False,
         ("fs0",)),
        ('{"execute":"human-monitor-command","arguments":{"command-line":'
         '"device_add vhost-user-fs-pci,id=fs0,iommu_platform=on"}}', True, ("fs0",)),
    ],
)  # fmt: skip
def test_monitor_after_the_command_line(
    after: str, requested: bool, names: tuple[str, ...]
) -> None:
    (found,) = explanation(f"{Q35}\n{after}").predictions
    assert found.item.hot
    assert (found.requested, found.backend.names) == (requested, names)


def test_monitor_before_the_last_start_is_not_of_it() -> None:
    text = f"qemu-system-x86_64 {Q35}\n{HMP}\nqemu-system-x86_64 {Q35} {FS}\n"
    (found,) = explanation(text).predictions
    assert not found.item.hot
