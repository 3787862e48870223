"""Values of options as QEMU takes them."""

import pytest

from qap.explain.opts import boolean, parse
from qap.host.errors import UsageError


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("virtio-rng-pci", [("driver", "virtio-rng-pci")]),
        ("driver=a,id=b", [("driver", "a"), ("id", "b")]),
        ("a,path=/x,,y,id=b", [("driver", "a"), ("path", "/x,y"), ("id", "b")]),
        ("a,value=b=c", [("driver", "a"), ("value", "b=c")]),
        ("a,,b", [("driver", "a,b")]),
        ("a,server", [("driver", "a"), ("server", "on")]),
        ("a,nowait", [("driver", "a"), ("nowait", "on"), ("wait", "off")]),
        ("a,id=", [("driver", "a"), ("id", "")]),
        ("a,", [("driver", "a")]),
        ('{"driver":"a","n":1,"on":true}', [("driver", "a"), ("n", "1"), ("on", "on")]),
        ('{"a":{"b":["c","d"]}}', [("a.b.0", "c"), ("a.b.1", "d")]),
    ],
)
def test_pairs(text: str, pairs: list[tuple[str, str]]) -> None:
    assert list(parse(text, "driver").pairs) == pairs


def test_last_value_wins_in_either_spelling() -> None:
    parsed = parse("a,iommu_platform=on,iommu-platform=off")
    assert parsed.get("iommu_platform") == "off"
    assert parsed.has("iommu-platform")


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("Yes", True), ("n", False), ("false", False), ("auto", None)]
)
def test_boolean(text: str, value: bool | None) -> None:
    assert boolean(text) is value


def test_broken_json_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^this JSON can't be read \(.*\): \{'driver'"):
        parse("{'driver': 'a'}")
