"""Where the command line is, in whatever somebody has."""

import time
from pathlib import Path

import pytest

from qap.explain.error_texts import in_log
from qap.explain.explanation import explain
from qap.explain.start import Form, find
from qap.host.errors import UsageError

LIBVIRT = """\
2026-11-01 10:00:00.000+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.3
LC_ALL=C \\
PATH=/usr/local/sbin:/usr/bin \\
HOME=/var/lib/libvirt/qemu/domain-1-web \\
/usr/bin/qemu-system-x86_64 \\
-name guest=web,debug-threads=on \\
-machine pc-q35-10.0,usb=off \\
-device '{"driver":"virtio-rng-pci","id":"rng0","bus":"pci.1"}' \\
-msg timestamp=on
char device redirected to /dev/pts/1 (label charserial0)
2026-11-01T10:00:01Z qemu-system-x86_64: -device x: it failed
2026-11-01 10:00:02.000+0000: shutting down, reason=failed
"""
SCRIPT = """\
#!/bin/sh
# qemu-system-s390x -is not=it
QEMU=/usr/bin/qemu-system-x86_64
DISK="/srv/a b.img"
exec sudo "$QEMU" -machine q35 \\
    -drive file="$DISK",if=virtio -append 'root=$DISK quiet' # the disk's name
echo done
"""


def words(text: str) -> tuple[str, ...]:
    return find(text.encode(), "it").words


def test_libvirt_log_with_its_environment() -> None:
    start = find(LIBVIRT.encode(), "web.log")
    assert start.words[0] == "/usr/bin/qemu-system-x86_64"
    assert start.words[-2:] == ("-msg", "timestamp=on")
    assert '{"driver":"virtio-rng-pci","id":"rng0","bus":"pci.1"}' in start.words
    assert (start.starts, start.line) == (1, 2)
    assert "it failed" in start.after


def test_last_start_is_taken() -> None:
    start = find((LIBVIRT + LIBVIRT.replace("guest=web", "guest=again")).encode(), "web.log")
    assert (start.starts, start.line) == (2, 14)
    assert "guest=again,debug-threads=on" in start.words


def test_script_with_variables_and_comments() -> None:
    assert words(SCRIPT) == (
        "/usr/bin/qemu-system-x86_64",
        "-machine",
        "q35",
        "-drive",
        "file=/srv/a b.img,if=virtio",
        "-append",
        "root=$DISK quiet",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kvm -m 1G", ("kvm", "-m", "1G")),
        (
            "# qemu-kvm -m 1\n$ sudo /usr/libexec/qemu-kvm -m 2",
            ("/usr/libexec/qemu-kvm", "-m", "2"),
        ),
        ('su -c "qemu-system-arm -M virt -m 1"', ("qemu-system-arm", "-M", "virt", "-m", "1")),
        ("qemu-system-arm -M virt & sleep 1", ("qemu-system-arm", "-M", "virt")),
        ("qemu-system-arm -M virt; sleep 1", ("qemu-system-arm", "-M", "virt")),
        ("qemu-system-arm -append 'a\nb'", ("qemu-system-arm", "-append", "a\nb")),
        ("\x1b[1mqemu-system-arm -M virt\x1b[0m", ("qemu-system-arm", "-M", "virt")),
    ],
)
def test_shell_lines(text: str, expected: tuple[str, ...]) -> None:
    assert words(text) == expected


def test_process_command_line() -> None:
    start = find(b"/usr/bin/qemu-system-s390x\0-name\0a b,c=d\0-append\0\0", "cmdline")
    assert start.form is Form.PROC
    assert start.words == ("/usr/bin/qemu-system-s390x", "-name", "a b,c=d", "-append", "")


def test_log_with_words_in_brackets() -> None:
    text = (
        'level=info msg="launching /opt/kata/bin/qemu-system-x86_64 with: [-name sandbox '
        '-append console=hvc0 quiet -machine q35,accel=kvm]" subsystem=qemu\nlater'
    )
    start = find(text.encode(), "kata.log")
    assert start.form is Form.LAUNCH
    assert start.words[1:] == (
        *("-name", "sandbox", "-append", "console=hvc0 quiet"),
        *("-machine", "q35,accel=kvm"),
    )


def test_json_array() -> None:
    start = find(b'["qemu-system-arm", "-M", "virt"]', "it")
    assert (start.form, start.words) == (Form.ARRAY, ("qemu-system-arm", "-M", "virt"))


def test_configuration_file_alone() -> None:
    start = find(b'[machine]\n  type = "q35"\n', "qemu.conf")
    assert (start.form, start.words) == (Form.CONFIG, ("",))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "it is empty"),
        (b"  \n", "it is empty"),
        (b"Dear all,\nmy guest fails.\n", "no command line of QEMU is in it"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0", "it is no text"),
        (b"qemu-system-x86_64 -m 1 \xff\xfe", "it is no text"),
        (b"qemu-system-x86_64 \x01 -m 1", "it is no text"),
        (b"<domain type='kvm'>\n</domain>", "that is libvirt's XML"),
        (b"\n\nkvm -name 'open -m 1\nrest\n", "line 3: a quote of this command does not close"),
    ],
)
def test_bad_input_is_one_line(data: bytes, error: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(data, "x.log")
    assert str(caught.value).startswith(f"x.log: {error}")
    assert "\n" not in str(caught.value)
    assert caught.value.detail == ""


def test_large_log_is_explained_quickly() -> None:
    line = "2026-11-01T10:00:00.000000Z qemu-system-x86_64: warning: the guest's clock is late\n"
    log = (LIBVIRT + line * (2 * (1 << 20) // len(line) + 1)) * 5
    assert len(log) > 10 << 20
    began = time.process_time()
    found = explain(log.encode(), "large.log", Path(), {})
    in_log(found.command.said)
    assert found.start.starts == 5
    assert [one.name for one in found.predictions] == ["rng0"]
    assert time.process_time() - began < 5
