"""Which of the properties that the queue adds QEMU's documentation does not mention."""

import re
from collections.abc import Iterable
from pathlib import Path

from qap.export.properties import properties
from qap.fork.patch import Patch

# Where users look, in QEMU's tree.
OPTIONS = "qemu-options.hx"
PAGES = "docs/system/**/*.rst"


def documentation(tree: Path) -> str:
    """The documentation for users in a source tree of QEMU."""
    pages = [tree / OPTIONS, *sorted(tree.glob(PAGES))]
    return "\n".join(page.read_text("utf-8", "replace") for page in pages)


def undocumented(patches: Iterable[Patch], text: str) -> list[str]:
    """The properties that patches add and a text does not mention, by name."""
    names = {found.name for patch in patches for found in properties(patch.diff)}
    return sorted(name for name in names if not mentions(text, name))


def mentions(text: str, name: str) -> bool:
    """Whether a text has this property, and not only one whose name begins or ends so."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None
