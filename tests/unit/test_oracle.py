"""The fence table of docs and design, and that nobody but the specifications wrote it."""

import ast
from pathlib import Path

import pytest

from qap import oracle
from qap.oracle import Outcome

# requested, translated, backend can: outcome, bit offered, back-end gets bit and IOTLB
TABLE = [
    ((False, False, False), (Outcome.WORKS, False, False)),
    ((False, False, True), (Outcome.WORKS, False, False)),
    ((False, True, False), (Outcome.WORKS, False, False)),
    ((False, True, True), (Outcome.WORKS, False, False)),
    ((True, False, False), (Outcome.WORKS, True, False)),
    ((True, False, True), (Outcome.WORKS, True, False)),
    ((True, True, True), (Outcome.WORKS, True, True)),
    ((True, True, False), (Outcome.REFUSED, False, False)),
]


@pytest.mark.parametrize(("given", "expected"), TABLE)
def test_fence(given: tuple[bool, bool, bool], expected: tuple[Outcome, bool, bool]) -> None:
    requested, translated, backend_can = given
    found = oracle.plug(requested=requested, translated=translated, backend_can=backend_can)
    assert (found.outcome, found.offered, found.translating) == expected
    assert found.why


def test_table_is_complete() -> None:
    assert len({given for given, _ in TABLE}) == 8


def test_oracle_imports_nothing_of_what_measures() -> None:
    assert oracle.__file__
    nodes = list(ast.walk(ast.parse(Path(oracle.__file__).read_text())))
    imported = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.append(node.module or "")
    assert imported
    assert not [name for name in imported if name.partition(".")[0] == "qap"]
