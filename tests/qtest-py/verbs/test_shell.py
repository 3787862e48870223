"""`qap shell`: a confidential guest on a terminal, into which virtiofs is hot-plugged by hand."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pexpect
import pytest

from qap.fork.build import Build
from qap.host.errors import Exit
from qap.host.paths import Project
from qap.scenario.confidential_kind import ConfidentialKind

QAP = [sys.executable, "-m", "qap"]
TO_MONITOR = TO_GUEST = "\x01c"
MONITOR, PROMPT = r"\(qemu\) ", "# "


@contextmanager
def shell(*options: str) -> Iterator[tuple["pexpect.spawn[str]", str]]:
    """Run the verb on its own terminal until the guest has a prompt; also returns the output."""
    profile = Build.under_test().profile
    argv = [*QAP, "shell", "--profile", profile, *options]
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
    process = pexpect.spawn(
        argv[0], argv[1:], timeout=90, cwd=Project.here().root, env=environment, encoding="utf-8"
    )
    with closing(process):
        process.logfile_read = heard = io.StringIO()
        process.expect("poweroff -f ends")
        process.expect(PROMPT)
        yield process, heard.getvalue()


@pytest.mark.parametrize("kind", [*ConfidentialKind, None])
def test_virtiofs_is_plugged_by_hand(kind: ConfidentialKind | None, tmp_path: Path) -> None:
    """With the commands that it prints; a confidential guest also detects that it is one."""
    (tmp_path / "from-host").write_text("hello\n")
    options = ["--confidential", kind] if kind else []
    with shell(*options, "--share", str(tmp_path)) as (line, said):
        plugs = re.findall("device_add [^\r]*", said)
        mounts = re.findall("in the guest: ([^\r]*)", said)
        if kind:
            line.sendline(f"{kind.traits.protected} && echo protected=$?")
            line.expect("protected=0\r")
        line.send(TO_MONITOR)
        line.expect(MONITOR)
        line.sendline(plugs[0])
        line.expect(r"\n.*" + MONITOR)
        line.send(TO_GUEST)
        line.sendline(f"{mounts[0]} && cat /mnt/from-host")
        line.expect("hello\r")
        line.sendline("poweroff -f")
        line.expect(pexpect.EOF)
        line.close()
        assert line.exitstatus == Exit.OK


def in_monitor(line: "pexpect.spawn[str]", *commands: str) -> str:
    """What QEMU's monitor answers to these, without their echo."""
    line.send(TO_MONITOR)
    line.expect(MONITOR)
    answers = ""
    for command in commands:
        line.sendline(command)
        line.expect(r"\n(.*)" + MONITOR)
        assert isinstance(line.match, re.Match)
        answers += line.match[1]
    line.send(TO_GUEST)
    return answers


@pytest.mark.parametrize(
    "options",
    [
        ["--base"],
        ["--base", "--device", "virtio-balloon-pci"],
        ["--viommu", "intel-iommu"],
        ["--machine", "pc"],
        ["--device", "vhost-user-blk-pci"],
    ],
    ids=" ".join,
)
def test_line_that_is_printed_plugs(options: list[str]) -> None:
    """Where a device with iommu_platform=on is refused or not served, it is without."""
    with shell(*options) as (line, said):
        plugs = re.findall("device_add [^\r]*", said)
        drives = re.findall("in the guest: ([^\r]*)", said)
        assert in_monitor(line, plugs[0]) == ""
        line.sendline(f"{drives[0]} && echo driven=$?")
        line.expect("driven=0\r")


def test_ports_are_free_and_options_are_qemus() -> None:
    more = [f"device_add virtio-rng-pci,bus=port{slot}" for slot in (1, 2)]
    with shell("--ports", "3", "--", "-name", "mine") as (line, said):
        assert "free for more: bus=port1 to bus=port2" in said
        assert in_monitor(line, *re.findall("device_add [^\r]*", said), *more) == ""
        assert in_monitor(line, "info name").strip() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--guest", "nowhere"], "unknown guest 'nowhere'"),
        (["--machine", "pc-q35-9.2"], "--machine q35"),
        (["--machine", "pc", "--viommu", "intel-iommu"], "pc takes no intel-iommu"),
        (["--machine", "pc", "--ports", "2"], "pc needs no ports: leave out --ports"),
        (["--device", "virtio-rng-ccw"], "try virtio-rng-pci"),
        (["--device", "virtio-rng-pci", "--share", "/"], "virtio-rng-pci shares no folder"),
        (
            ["--machine", "s390-ccw-virtio", "--device", "vhost-user-blk-ccw", "--base"],
            "stock QEMU has no vhost-user-blk-ccw",
        ),
        (["--confidential", "sev", "--viommu", "intel-iommu"], "leave out --viommu"),
        (["sev"], "options of QEMU come after --"),
        (["--confidential", "se", "--guest", "x86_64"], "x86_64 can't be a Secure Execution guest"),
        (["--confidential", "tdx", "--guest", "s390x"], "s390x can't be a TDX guest"),
        (["--confidential", "sev", "--base"], "the base has no x-confidential-sim"),
        (["--share", "/nowhere"], "--share /nowhere: no such folder"),
    ],
)
def test_what_can_not_be_is_refused(options: list[str], said: str) -> None:
    """In one line, before anything is built."""
    argv = [*QAP, "shell", "--profile", "debian", *options]
    done = subprocess.run(
        argv, cwd=Project.here().root, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.USAGE
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
