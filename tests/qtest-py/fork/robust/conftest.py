"""A machine with one device, on any transport that a modern driver may use."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from qap.machine.machine import Machine
from qap.verify.kit.lab import Lab
from qap.virtio.transport import Transport
from qap.virtio.transports import TRANSPORTS

Start = Callable[..., tuple[Machine, Transport]]
# A QEMU that does not answer in this time hangs.
ANSWER_S = 5.0


@pytest.fixture
def start(lab: Lab) -> Start:
    """Starts a machine of one of TRANSPORTS with a device of this type."""

    def started(
        name: str,
        kind: str,
        blockdevs: Sequence[str] = (),
        extra: Sequence[str] = (),
        **properties: object,
    ) -> tuple[Machine, Transport]:
        variant = TRANSPORTS[name]
        variant = replace(variant, extra=(*variant.extra, *extra))
        machine = lab.owned.enter_context(
            Machine(
                lab.build.path(variant.emulator),
                variant.spec(kind, blockdevs, **properties),
                log=lab.log(),
            )
        )
        machine.qmp.timeout = machine.qtest.timeout = ANSWER_S
        return machine, variant.connect(machine)

    return started
