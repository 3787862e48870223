"""What a monitor was told after QEMU's start: device_add and what it needs, in HMP or QMP."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from qap.explain import opts
from qap.explain.command import Command, Item
from qap.explain.opts import Opts

VERBS = ("device_add", "device_del", "netdev_add", "object_add", "chardev-add")
HMP = re.compile(rf"(?:^|[\s'\"])({'|'.join(VERBS)})\s+([^\s'\"{{][^\s'\"]*)")
IMPLIED = {
    "device_add": "driver",
    "netdev_add": "type",
    "object_add": "qom-type",
    "chardev-add": "backend",
}
QMP = re.compile(r'\{\s*"(?:execute|arguments)"')
TABLE = {
    "netdev_add": "netdev",
    "object_add": "object",
    "object-add": "object",
    "chardev-add": "chardev",
}


@dataclass(frozen=True)
class Told:
    """A command of the monitor."""

    verb: str
    opts: Opts
    said: str


def listen(text: str, command: Command) -> None:
    """Take the commands in a text into `command`, as far as they matter to virtio."""
    told: list[tuple[int, Told]] = []
    ends = 0
    for start, end, value in _objects(text):
        told += [(start, one) for one in _of_qmp(value)]
        told += [(at, one) for at, one in _of_hmp(text, ends, start)]
        ends = end
    told += _of_hmp(text, ends, len(text))
    for _, one in sorted(told, key=lambda pair: pair[0]):
        _take(one, command)
    command.said = text


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, object]]]:
    """The commands of QMP in a text that has other things around them, and where they are."""
    decoder = json.JSONDecoder()
    ends = 0
    for match in QMP.finditer(text):
        if match.start() < ends:
            continue
        try:
            value, ends = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        yield match.start(), ends, value


def _of_hmp(text: str, start: int, end: int) -> list[tuple[int, Told]]:
    if not any(text.find(verb, start, end) >= 0 for verb in VERBS):
        return []
    return [
        (match.start(), Told(match[1], opts.parse(match[2], IMPLIED.get(match[1], "id")), match[2]))
        for match in HMP.finditer(text, start, end)
    ]


def _of_qmp(value: dict[str, object]) -> list[Told]:
    verb, arguments = value.get("execute"), value.get("arguments")
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        return []
    if verb == "human-monitor-command":
        line = str(arguments.get("command-line", ""))
        return [one for _, one in _of_hmp(line, 0, len(line))]
    parsed = opts.from_object(arguments)
    if verb == "chardev-add":
        parsed = _chardev(parsed)
    return [Told(verb, parsed, json.dumps(arguments))]


def _chardev(parsed: Opts) -> Opts:
    """QMP's nested chardev as -chardev has it."""
    path = parsed.get("backend.data.addr.data.path")
    named = (("id", parsed.get("id")), ("backend", parsed.get("backend.type")))
    return Opts((*named, ("path", path)))


def _take(told: Told, command: Command) -> None:
    name = told.opts.get("id")
    if told.verb == "device_add":
        command.removed.discard(name)
        command.devices.append(Item("device_add", told.opts, told.said))
    elif told.verb == "device_del":
        command.removed.add(name)
    elif told.verb in TABLE:
        command.tables[TABLE[told.verb]][name] = told.opts
