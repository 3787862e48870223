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

# 5.3.4: offset of max_nr_ports.
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
        port: number of the port.
        rest: bytes that follow the message.
    """

    port: int
    event: Event
    value: int
    rest: bytes = b""


class Port:
    """A port, with a byte stream in each direction. Make it before DRIVER_OK is set.

    Attributes:
        number: from 0.
        name: UTF-8, or "" if the device gave none.
        console: the device calls it a console.
        host_open: whether the host's side is open, by the last message of the device.
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
        """Notify the device of the receive buffers; call it after DRIVER_OK is set."""
        self._receiveq.open()

    def note(self, message: Control) -> None:
        """Record what a control message from the device says about this port."""
        if message.event == Event.PORT_NAME:
            # QEMU sends a NUL at the end, which 5.3.6.2 does not allow.
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
        """The next `size` bytes, from as many buffers as needed.

        Raises:
            TimeoutError: fewer came; the next `read` returns them.
            VirtioError: a buffer is empty.
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

    With MULTIPORT it sends DEVICE_READY; call `add` for the handshake of each port.

    Args:
        ports: how many to set up, from number 0; the queues of others stay disabled.
    Attributes:
        ports: by number.
        max_ports: max_nr_ports; 1 without MULTIPORT (5.3.4).
    Raises:
        VirtioError: the device has fewer ports than `ports`.
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
        """Wait until the device adds a port, and answer that it is ready and open (5.3.6.2).

        The messages CONSOLE_PORT, PORT_NAME and PORT_OPEN may come only after this; use
        `wait_for` for them.

        Raises:
            TimeoutError: the device does not add the port or does not take the answer.
        """
        self.wait_for(Event.DEVICE_ADD, number, timeout)
        self.send(Event.PORT_READY, number, 1, timeout)
        self.send(Event.PORT_OPEN, number, 1, timeout)
        return self.ports[number]

    def wait_for(self, event: Event, number: int, timeout: float = SERVED_S) -> Control:
        """The next control message with this event and port; earlier ones are kept for later.

        Raises:
            TimeoutError: it does not come.
            VirtioError: a message is malformed or for a port beyond `max_ports`.
        """

        def wanted(message: Control) -> bool:
            return (message.event, message.port) == (event, number)

        while not any(wanted(message) for message in self._unclaimed):
            self._unclaimed.append(self._next(f"{event.name} of port {number}", timeout))
        claimed = next(message for message in self._unclaimed if wanted(message))
        self._unclaimed.remove(claimed)
        return claimed

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
        control = Control(number, Event(event), value, raw[self._message.size :])
        if number in self.ports:
            self.ports[number].note(control)
        return control


def _send(driver: Driver, queue: Queue, data: bytes, timeout: float) -> None:
    driver.serve(queue, [Buffer(driver.memory.put(data), len(data))], timeout)
