"""Starting a real back-end that makes its socket itself."""

import socket
import sys
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.host.process import Process
from qap.vhost_user.programs import await_listening

LISTENS = """
import socket, sys
one = socket.socket(socket.AF_UNIX)
one.bind(sys.argv[1])
one.listen(1)
one.accept()[0].sendall(b"here")
"""


def test_program_is_ready_once_it_listens(tmp_path: Path) -> None:
    """It takes one connection, and waiting for it is none."""
    path = tmp_path / "program.sock"
    with Process([sys.executable, "-c", LISTENS, str(path)], log=tmp_path / "log") as process:
        await_listening(path, process)
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            assert one.recv(4) == b"here"


def test_program_that_ends_before_is_told(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such GPU')"]
    with Process(argv, log=tmp_path / "log") as process:
        with pytest.raises(QapError, match="ended before it listened") as failed:
            await_listening(tmp_path / "program.sock", process)
        assert "no such GPU" in str(getattr(failed.value, "detail", ""))
