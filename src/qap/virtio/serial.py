"""A console device's driver, with one port or several (virtio 1.3, section 5.3)."""

import struct
from dataclasses import dataclass
from enum import IntEnum

from qap.virtio.driver import SERVED_S, Driver
from qap.virtio.queue import Buffer, Queue
from qap.virtio.receive_queue import ReceiveQueue
from qap.virtio.transport import VirtioError

DEVICE_TYPE = 3
CONTROL_RECEIVEQ = 2
CONTROL_TRANSMITQ = 3

# 5.3.3.
FEATURE_SIZE = 0
FEATURE_MULTIPORT = 1

# 5.3.4: where max_nr_ports is.
MAX_NR_PORTS = 4

# 5.3.6.2: id, event and value.
CONTROL = "IHH"
ROOM = 4096


class Event(IntEnum):
    """event of struct virtio_console_control (5.3.6.2)."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    DEVICE_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


@dataclass(frozen=True)
class Control:
    """A control message from the device (5.3.6.2).

    Attributes:
        port: its number; `rest` is what follows the message.
    """

    port: int
    event: Event
    value: int
    rest: bytes = b""


class Port:
    """A port: bytes both ways, without boundaries. Made before DRIVER_OK is set.

    Attributes:
        number: from 0.
        name: UTF-8, or "" if the device gave none.
        console: the device calls it a console.
        host_open: whether the other side is open, as far as the device has said.
    """

    def __init__(self, driver: Driver, number: int) -> None:
        self.number = number
        self.name = ""
        self.console = False
        self.host_open = False
        self._driver = driver
        self._unread = b""
        first = 2 * number + (2 if number else 0)
        self._receiveq = ReceiveQueue(driver, first, ROOM)
        self._transmitq = driver.queue(first + 1)

    def open(self) -> None:
        """Let the device write, once DRIVER_OK is set."""
        self._receiveq.open()

    def note(self, message: Control) -> None:
        """Keep what a control message from the device says of this port."""
        if message.event == Event.PORT_NAME:
            # QEMU ends it with the NUL that 5.3.6.2 rules out.
            self.name = message.rest.rstrip(b"\0").decode()
        elif message.event == Event.CONSOLE_PORT:
            self.console = True
        elif message.event == Event.PORT_OPEN:
            self.host_open = bool(message.value)

    def write(self, data: bytes, timeout: float = SERVED_S) -> None:
        """Write at least one byte and wait until the device has taken it.

        Raises:
            TimeoutError: it did not.
        """
        _send(self._driver, self._transmitq, data, timeout)

    def read(self, size: int, timeout: float = SERVED_S) -> bytes:
        """The next `size` bytes, in whatever pieces they come.

        Raises:
            TimeoutError: fewer came; the next `read` has them.
            VirtioError: a piece is empty.
        """
        while len(self._unread) < size:
            wanted = f"byte {len(self._unread)} of {size} of port {self.number}"
            piece = self._receiveq.take(wanted, timeout)
            if not piece:
                raise VirtioError(f"{wanted} came as a buffer of 0 bytes")
            self._unread += piece
        data, self._unread = self._unread[:size], self._unread[size:]
        return data


class Serial:
    """A console device whose features are negotiated; sets DRIVER_OK.

    With MULTIPORT it says DEVICE_READY; each port's part in the handshake is `add`.

    Args:
        ports: how many to prepare, from number 0; the others' queues stay off.
    Attributes:
        ports: by number.
        max_ports: max_nr_ports, or the one that there is without MULTIPORT (5.3.4).
    Raises:
        VirtioError: there are fewer.
    """

    def __init__(self, driver: Driver, ports: int = 1) -> None:
        self.driver = driver
        self._message = struct.Struct(driver.order + CONTROL)
        self.multiport = driver.has(FEATURE_MULTIPORT)
        self.max_ports = self._max_ports()
        self._unclaimed: list[Control] = []
        if ports > self.max_ports:
            raise VirtioError(f"the device has at most {self.max_ports} ports, not {ports}")
        self.ports = {number: Port(driver, number) for number in range(ports)}
        if self.multiport:
            self._control_receiveq = ReceiveQueue(driver, CONTROL_RECEIVEQ, ROOM)
            self._control_transmitq = driver.queue(CONTROL_TRANSMITQ)
        driver.start()
        for port in self.ports.values():
            port.open()
        if self.multiport:
            self._control_receiveq.open()
            self.send(Event.DEVICE_READY, 0, 1)

    def _max_ports(self) -> int:
        if not self.multiport:
            return 1
        raw = self.driver.transport.config_read(MAX_NR_PORTS, 4)
        return int(struct.unpack(f"{self.driver.order}I", raw)[0])

    def add(self, number: int, timeout: float = SERVED_S) -> Port:
        """Wait until the device adds a port, and say that it is ready and open (5.3.6.2).

        A console's or a named port's name and its host's state may come only after this:
        `wait_for` them.

        Raises:
            TimeoutError: it does not add it, or takes no answer.
        """
        self.wait_for(Event.DEVICE_ADD, number, timeout)
        self.send(Event.PORT_READY, number, 1, timeout)
        self.send(Event.PORT_OPEN, number, 1, timeout)
        return self.ports[number]

    def wait_for(self, event: Event, number: int, timeout: float = SERVED_S) -> Control:
        """The next control message of this kind and port; those before it stay for later.

        Raises:
            TimeoutError: it does not come.
            VirtioError: a message is malformed, or is about a port beyond `max_ports`.
        """

        def wanted(message: Control) -> bool:
            return (message.event, message.port) == (event, number)

        while not any(wanted(message) for message in self._unclaimed):
            self._unclaimed.append(self._next(f"{event.name} of port {number}", timeout))
        found = next(message for message in self._unclaimed if wanted(message))
        self._unclaimed.remove(found)
        return found

    def send(self, event: Event, number: int, value: int, timeout: float = SERVED_S) -> None:
        """Send a control message.

        Raises:
            TimeoutError: the device did not take it.
        """
        message = self._message.pack(number, event, value)
        _send(self.driver, self._control_transmitq, message, timeout)

    def _next(self, wanted: str, timeout: float) -> Control:
        raw = self._control_receiveq.take(wanted, timeout)
        if len(raw) < self._message.size:
            raise VirtioError(f"a control message of {len(raw)} bytes came")
        number, event, value = self._message.unpack_from(raw)
        if event not in set(Event) or number >= self.max_ports:
            raise VirtioError(f"the control message {event} came for port {number}")
        found = Control(number, Event(event), value, raw[self._message.size :])
        if number in self.ports:
            self.ports[number].note(found)
        return found


def _send(driver: Driver, queue: Queue, data: bytes, timeout: float) -> None:
    driver.serve(queue, [Buffer(driver.memory.put(data), len(data))], timeout)
