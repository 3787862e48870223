"""Which properties are not documented."""

import pytest

from qap.export.documented import documentation, mentions, undocumented
from qap.fork import series
from qap.fork.build import Build

from ..fork.test_series import REAL


def test_name_is_mentioned_as_a_whole() -> None:
    assert mentions("``x-ask=on|off``", "x-ask")
    assert not mentions("x-ask-twice, max-ask", "x-ask")
    assert not mentions("max-ask", "ask")


def test_every_property_of_the_queue_is_documented() -> None:
    tree = Build("lab", project=REAL).tree
    if not tree.exists():
        pytest.skip("qemu/tree is not here yet: run ./qap tree")
    assert undocumented(series.patches(REAL), documentation(tree)) == []


def test_property_that_no_page_mentions_is_named() -> None:
    assert "x-require-iommu-platform" in undocumented(series.patches(REAL), "nothing")
