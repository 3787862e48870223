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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--confidential", "se", "--guest", "x86_64"], "x86_64 can't be a Secure Execution guest"),
        (["--confidential", "tdx", "--guest", "s390x"], "s390x can't be a TDX guest"),
        (["--confidential", "sev", "--base"], "the base has no x-confidential-sim"),
        (["--share", "/nowhere"], "--share /nowhere: no such folder"),
    ],
)
def test_what_can_not_be_is_refused(options: list[str], said: str) -> None:
    argv = [*QAP, "shell", *options]
    done = subprocess.run(
        argv, cwd=Project.here().root, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.USAGE
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
