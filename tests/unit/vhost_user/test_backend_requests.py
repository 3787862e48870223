"""Requests that qap.vhost_user.backend sends, as the front-end sees them."""

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.vhost_user.backend import Backend
from qap.vhost_user.backend_channel import NoAnswer
from qap.vhost_user.protocol import NEED_REPLY, REPLY, VERSION, BackendRequest, Message

from .front_end import PATIENCE_S, Frontend, R, u64
from .iommu import Iommu


@pytest.fixture
def iommu(tmp_path: Path) -> Iterator[Iommu]:
    with ExitStack() as owned:
        yield Iommu(tmp_path, owned, reply_ack=True)


def test_config_change_is_told_and_answered_meanwhile(iommu: Iommu) -> None:
    """The front-end reads the new configuration before it replies, as QEMU does."""
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(iommu.backend.change_config, b"new!")
        with iommu.channel.receive() as asked:
            assert asked.request == BackendRequest.CONFIG_CHANGE_MSG
        read = struct.pack("=III", 0, 4, 0) + bytes(4)
        assert iommu.front.ask(R.GET_CONFIG, read)[12:] == b"new!"
        iommu.channel.send(Message(BackendRequest.CONFIG_CHANGE_MSG, u64(7), VERSION | REPLY))
        assert asking.result(PATIENCE_S) == 7


def test_request_without_a_connection_says_so(tmp_path: Path) -> None:
    with (
        Backend(tmp_path / "s", features=0) as backend,
        pytest.raises(NoAnswer, match="no front-end is connected"),
    ):
        backend.front_end.config_change()


def test_request_without_a_channel_says_so(tmp_path: Path) -> None:
    with Backend(tmp_path / "s", features=0) as backend:
        front = Frontend(backend.path)
        front.ask_u64(R.GET_QUEUE_NUM)
        with pytest.raises(NoAnswer, match="SET_BACKEND_REQ_FD never came"):
            backend.front_end.config_change()
        assert front.ask_u64(R.GET_QUEUE_NUM, flags=VERSION | NEED_REPLY) == 8
        front.close()


def test_request_ends_with_the_connection(iommu: Iommu) -> None:
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(iommu.backend.front_end.config_change)
        iommu.channel.receive().close()
        iommu.front.close()
        with pytest.raises(QapError, match="closed the vhost-user connection"):
            asking.result(PATIENCE_S)
