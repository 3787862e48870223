"""The back-ends that a guest's driver can use, by device type."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qap.explain.backend import features
from qap.host.errors import UsageError
from qap.host.wait import poll_until
from qap.oracle.features import mask
from qap.vhost_user.input import SIZE
from qap.vhost_user.memory.dirty_log import LOG_ALL
from qap.vhost_user.protocol import ProtocolFeature
from qap.vhost_user.serve import service, serving

STARTED_S = 30.0


def test_scsi_logs_what_it_writes(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    kind, told = "vhost-user-scsi", features("none")
    with serving(tmp_path / "s", kind, told, service(kind, image)) as made:
        assert made.features >> LOG_ALL & 1
        assert made.protocol_features & mask([ProtocolFeature.LOG_SHMFD])
    with serving(tmp_path / "s", "vhost-user-rng", told, service("vhost-user-rng")) as made:
        assert not made.features >> LOG_ALL & 1


@pytest.mark.parametrize("image", [None, Path("no/such/disk.img"), Path("/dev/null")])
def test_scsi_needs_an_image(image: Path | None) -> None:
    with pytest.raises(UsageError, match="serves a disk: name its image"):
        service("vhost-user-scsi", image)


def test_name_that_can_not_be_one_is_refused() -> None:
    with pytest.raises(UsageError, match="File name too long"):
        service("vhost-user-scsi", Path("x" * 300))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "s"
    argv = [sys.executable, "-m", "qap.vhost_user.serve", "vhost-user-rng", str(path), "none"]
    with subprocess.Popen(argv) as started:
        poll_until(lambda: path.exists() or None, STARTED_S, lambda: "the socket")
        started.send_signal(number)
        assert started.wait(STARTED_S) == 0


def test_configuration_is_what_the_driver_finds(tmp_path: Path) -> None:
    """A keyboard's is empty until something is selected; a sound device has one stream."""
    told = features("none")
    with serving(tmp_path / "k", "vhost-user-input", told, service("vhost-user-input")) as made:
        assert made.config == bytes(SIZE)
        assert made.selects(bytes((1,)).ljust(SIZE, b"\0"))[2] > 0
    with serving(tmp_path / "s", "vhost-user-snd", told, service("vhost-user-snd")) as made:
        assert made.config == bytes((0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0))
