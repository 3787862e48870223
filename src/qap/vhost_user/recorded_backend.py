"""What a back-end has recorded, as a test reads it."""

from abc import ABC, abstractmethod
from pathlib import Path

from qap.vhost_user.chain_service import Served
from qap.vhost_user.memory.access import Touched
from qap.vhost_user.protocol import FrontendRequest, request_name
from qap.vhost_user.records import Received, Records, RingError

_R = FrontendRequest


class RecordedBackend(ABC):
    """The records of a back-end; any thread may read them.

    Args:
        path: the back-end's socket.
        records: what its thread adds to.

    Attributes:
        path: as given.
    """

    def __init__(self, path: Path, records: Records) -> None:
        self.path = path
        self._records = records

    @property
    @abstractmethod
    def error(self) -> Exception | None:
        """What ended the latest connection (Disconnected if the front-end just left it)."""

    @property
    def received(self) -> list[Received]:
        """Every message so far, over all connections, oldest first."""
        return self._records.received

    @property
    def touched(self) -> list[Touched]:
        """Every access to the driver's memory so far, oldest first."""
        return self._records.touched

    @property
    def served(self) -> list[Served]:
        """Every chain served so far, oldest first."""
        return self._records.served

    @property
    def ring_errors(self) -> list[RingError]:
        """Why chains could not be served so far, oldest first."""
        return self._records.errors

    def forget(self) -> None:
        """Clear `received`, `touched`, `served` and `ring_errors`.

        The setup of the front-end stays.
        """
        self._records.forget()

    def requests(self, request: FrontendRequest) -> list[Received]:
        """Every message with this request so far, oldest first."""
        return [message for message in self.received if message.request == request]

    @property
    def acked_features(self) -> int | None:
        """Virtio features of the latest SET_FEATURES, or None if there was none."""
        return self._latest_u64(_R.SET_FEATURES)

    @property
    def acked_protocol_features(self) -> int | None:
        """Mask of the latest SET_PROTOCOL_FEATURES, or None if there was none."""
        return self._latest_u64(_R.SET_PROTOCOL_FEATURES)

    def wait_for(self, request: FrontendRequest, timeout: float, *, since: int = 0) -> Received:
        """Wait for the first message with this request.

        Args:
            timeout: in seconds.
            since: how many messages of `received` to skip.
        Raises:
            TimeoutError: none came; the text names the awaited and the last message.
        """

        def find() -> Received | None:
            later = self.received[since:]
            return next((message for message in later if message.request == request), None)

        message = self._records.wait(find, timeout)
        if message is None:
            received = self.received
            seen = f"{request_name(received[-1].request)} last" if received else "nothing yet"
            raise TimeoutError(
                f"waited {timeout:g} s for {request.name} at {self.path}: {seen}"
                + (f"; {self.error}" if self.error else "")
            )
        return message

    def _latest_u64(self, request: FrontendRequest) -> int | None:
        latest = self.requests(request)
        return latest[-1].words[0] if latest else None
