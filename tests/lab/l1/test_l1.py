"""The lab itself: what runs in L1, and what is left of it."""

from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.lab.agent import NotDone
from qap.lab.l1 import L1
from qap.lab.l2 import L2
from qap.lab.program import L1Program
from qap.machine.machine import QemuDied
from qap.machine.spec import Spec


def l2(l1: L1, *extra: str) -> L2:
    """A QEMU in L1 with no devices."""
    spec = Spec(machine="q35", accel="qtest", memory=64, qtest=True, extra=extra)
    return L2(l1.build.path("qemu-system-x86_64"), spec, l1=l1)


def test_l1_has_the_kernels_devices(l1: L1) -> None:
    for name in ("vhost-net", "vhost-vsock", "vhost-scsi", "net/tun", "vduse/control"):
        l1.check(f"test -c /dev/{name}")


def test_a_qemu_in_l1_is_driven_over_its_sessions(l1: L1) -> None:
    with l2(l1) as machine:
        machine.qtest.writel(0x1000, 0x12345678)
        assert machine.qtest.readl(0x1000) == 0x12345678
        assert machine.qmp.execute("query-status")["status"] == "running"


def test_two_qemus_run_beside_each_other(l1: L1) -> None:
    with l2(l1) as one, l2(l1) as other:
        one.qtest.writel(0x1000, 1)
        other.qtest.writel(0x1000, 2)
        assert (one.qtest.readl(0x1000), other.qtest.readl(0x1000)) == (1, 2)


def test_a_qemu_that_refuses_its_command_line_says_why(l1: L1) -> None:
    with pytest.raises(QemuDied, match="status 1") as died, l2(l1, "-device", "no-such"):
        pass
    assert "no-such" in died.value.said


def test_a_qemu_that_is_killed_is_told_from_one_that_hangs(l1: L1) -> None:
    with l2(l1) as machine:
        machine.process.kill()
        with pytest.raises(QemuDied) as died:
            machine.qtest.readl(0)
    assert died.value.status == -9


def test_the_end_of_a_qemu_is_heard_when_its_sessions_are_closed(l1: L1) -> None:
    with l2(l1) as machine:
        program = machine.process
    assert isinstance(program, L1Program)
    program.ended()


def test_channels_are_given_back(l1: L1) -> None:
    for _ in range(12):
        with l2(l1):
            pass


def test_a_program_ends_with_its_context(l1: L1) -> None:
    with l1.program("/usr/bin/sleep", "1000") as program:
        pid = program.pid
        l1.check(f"test -d /proc/{pid}")
    l1.check(f"! test -d /proc/{pid}")
    assert not program.alive


def test_a_program_tells_its_status(l1: L1) -> None:
    with l1.program("/usr/bin/false") as program:
        assert program.wait(10) == 1


def test_a_program_that_is_not_there_says_so(l1: L1) -> None:
    with l1.program("/usr/bin/no-such-program") as program:
        assert program.wait(10) == 127
        assert program.tail() == "/usr/bin/no-such-program: No such file or directory"


def test_a_program_gets_its_words_as_they_are(l1: L1) -> None:
    words = ["a b", "$HOME", "50%", "é\n", ""]
    with l1.program("/usr/bin/printf", "[%s]", *words) as program:
        assert program.wait(10) == 0
        assert program.log.read_text() == "".join(f"[{word}]" for word in words)


def test_device_that_does_not_come_is_named(l1: L1) -> None:
    with pytest.raises(NotDone, match="waited 1 s for /dev/never"):
        l1.agent.wait_nodes(["/dev/null", "/dev/never"], 1)


def test_logs_are_kept(l1: L1, tmp_path: Path) -> None:
    with l1.program("/usr/bin/echo", "said") as program:
        program.wait(10)
    kept = {file.name: file.read_text() for file in l1.keep(tmp_path)}
    assert "said\n" in kept.values()
    assert "Linux version" in kept["l1-dmesg.log"]


def test_there_is_an_end_to_channels(l1: L1) -> None:
    with pytest.raises(QapError, match="no more than 30 channels"), l1.channels.open(31):
        pass


def test_files_of_l1_are_seen_without_a_shell(l1: L1) -> None:
    l1.check("mkdir /run/seen && echo text >/run/seen/file && ln -s /there /run/seen/link")
    content, names, links = l1.agent.ask(
        "read /run/seen/file", "names /run/seen", "links /run/seen"
    )
    assert content == "text\n"
    assert sorted(names.splitlines()) == ["file", "link"]
    assert sorted(links.splitlines()) == ["/there", "gone"]
    assert l1.agent.ask("clear /run/seen/file", "read /run/seen/file") == ["", ""]


def test_file_that_is_not_there_is_an_error_and_the_next_is_read(l1: L1) -> None:
    with pytest.raises(NotDone, match="/run/no: No such file"):
        l1.agent.read("/run/no")
    assert "Linux" in l1.agent.read("/proc/version")


def test_what_a_qemu_in_l1_holds_is_seen(l1: L1) -> None:
    with l2(l1) as machine:
        before = machine.held()
        to_file = {"type": "file", "data": {"out": "/run/more"}}
        machine.qmp.execute("chardev-add", id="more", backend=to_file)
        after = machine.held()
    assert before.threads > 1
    assert before.resident > 1 << 20
    assert after.fds - before.fds == {"/run/more": 1}
