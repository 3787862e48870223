"""QOM names of QEMU's types, by the C structures that hold their objects."""

import re
from pathlib import Path

from qap.fork.git import Git, GitError

DECLARED = re.compile(r"\bOBJECT_DECLARE\w*_TYPE\(([\w\s,]+)\)")
NAMED = re.compile(r'#\s*define TYPE_(\w+)\s+"([^"]+)"')
LINES = ("grep", "-h", "-A3", "-E", "OBJECT_DECLARE|define TYPE_")


def names(tree: Path) -> dict[str, str]:
    """The QOM name of each C structure that a tree of QEMU declares as one type's.

    Of a macro that is defined twice, as for each target, the last counts.
    """
    try:
        text = Git(tree)(*LINES, "--", "*.h", "*.c")
    except GitError as failed:
        if failed.detail:
            raise
        return {}
    named = dict(NAMED.findall(text))
    found = {}
    for arguments in DECLARED.findall(text):
        structure, *_, macro = (each.strip() for each in arguments.split(","))
        if macro in named:
            found[structure] = named[macro]
    return found
