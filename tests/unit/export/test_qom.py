from pathlib import Path

from qap.export.qom import names
from qap.fork.git import Git

HEADER = """
#define TYPE_ONE "one-device"
OBJECT_DECLARE_SIMPLE_TYPE(One, ONE)

# define TYPE_TWO  "two-device"
OBJECT_DECLARE_TYPE(Two,
                    TwoClass, TWO)
OBJECT_DECLARE_SIMPLE_TYPE(Nameless, NAMELESS)
"""


def repository(folder: Path, text: str) -> Path:
    git = Git(folder)
    git.init()
    (folder / "types.h").write_text(text)
    git("add", "types.h")
    return folder


def test_names_are_by_structure(tmp_path: Path) -> None:
    found = names(repository(tmp_path, HEADER))
    assert found == {"One": "one-device", "Two": "two-device"}


def test_tree_without_types_has_none(tmp_path: Path) -> None:
    assert names(repository(tmp_path, "int a;\n")) == {}
