"""The features of real back-ends are those that configs/devices.toml lists."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.machine.catalog import device_types
from qap.machine.guest import io_checks
from qap.oracle.features import FeatureBit
from qap.verify.kit.lab import Lab
from qap.vhost_user import programs
from qap.vhost_user.protocol import Channel, FrontendRequest, Message


@pytest.mark.parametrize("kind", [name for name, kind in device_types().items() if kind.program])
def test_backend_offers_what_the_configuration_says(lab: Lab, tmp_path: Path, kind: str) -> None:
    host_data = io_checks.HostData(tmp_path)
    host_data.prepare()
    with ExitStack() as owned:
        if device_types()[kind].program == "virtiofsd":
            started = programs.virtiofsd(tmp_path, host_data.shared, "amd64", "asked")
        elif device_types()[kind].program == "vhost-user-gpu":
            started = programs.gpu(tmp_path, "asked")
        else:
            program = lab.build.path("qemu-storage-daemon")
            started = programs.storage_daemon(tmp_path, program, host_data.image, "asked")
        service = owned.enter_context(started)
        sock = owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.settimeout(20)
        sock.connect(str(service.socket))
        channel = Channel(sock, "the back-end")
        channel.send(Message(FrontendRequest.GET_FEATURES))
        with channel.receive() as answer:
            offered = int.from_bytes(answer.payload, "little")
    has = bool(offered >> FeatureBit.ACCESS_PLATFORM & 1)
    assert has == device_types()[kind].can_translate
