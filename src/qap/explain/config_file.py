"""A file that -readconfig takes: groups of options in brackets."""

import re
from dataclasses import dataclass

from qap.explain.opts import Opts
from qap.host.errors import UsageError

GROUP = re.compile(r'\[(\w[\w-]*)(?:\s+"([^"]*)")?\]')
VALUE = re.compile(r'([\w.\-]+)\s*=\s*"(.*)"')


@dataclass(frozen=True)
class Group:
    """The options below a `[name "id"]`."""

    name: str
    opts: Opts


def groups(text: str, name: str) -> list[Group]:
    """The groups of a file in its order; an id is among the options.

    Args:
        name: of the file, for errors.
    Raises:
        UsageError: a line is none of such a file.
    """
    found: list[Group] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if match := GROUP.fullmatch(stripped):
            own: tuple[tuple[str, str], ...] = (("id", match[2]),) if match[2] else ()
            found.append(Group(match[1], Opts(own)))
        elif found and (match := VALUE.fullmatch(stripped)):
            last = found[-1]
            pair = (match[1], match[2])
            found[-1] = Group(last.name, Opts((*last.opts.pairs, pair)))
        else:
            raise UsageError(f'{name}: line {number}: not [group "id"] nor key = "value"')
    return found
