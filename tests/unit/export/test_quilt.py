"""quilt/ as quilt and git-buildpackage take it."""

from pathlib import Path

import pytest

from qap.export.folder import export
from qap.export.sign_off import Person
from qap.fork import series
from qap.fork.git import Git
from qap.verify.kit import packagers

from ..project import Project, write

CONTROL = "Source: qemu\nMaintainer: Nobody <nobody@qap.invalid>\n"


@pytest.fixture
def tree(queue: Project, tmp_path: Path) -> Git:
    git = packagers.unpacked(queue.base_tree, tmp_path / "unpacked")
    write(git.root / "debian/control", CONTROL)
    git("add", "debian")
    git("commit", "-q", "-m", "a package")
    return git


def test_quilt_applies_all_of_it_without_fuzz_or_offset(
    queue: Project, exported: Path, tree: Git
) -> None:
    packagers.needs("quilt")
    said = packagers.apply_series(tree, exported / "quilt")
    assert said.count("Applying patch") == 4
    assert "fuzz" not in said and "offset" not in said
    series.ensure(queue)
    assert packagers.contents(tree, "HEAD", "debian/") == packagers.contents(queue.git)


def test_quilt_refresh_changes_neither_messages_nor_the_result(exported: Path, tree: Git) -> None:
    packagers.needs("quilt")
    packagers.apply_series(tree, exported / "quilt")
    packagers.refresh_series(tree.root)
    assert not tree("status", "--porcelain", "--untracked-files=no")
    for name in (exported / "quilt/series").read_text().split():
        message = (exported / "quilt" / name).read_text().partition("\ndiff --git")[0]
        assert (tree.root / packagers.PATCHES / name).read_text().startswith(message)


def test_gbp_pq_imports_and_exports_it_without_a_change(exported: Path, tree: Git) -> None:
    packagers.needs("gbp")
    assert not packagers.gbp_round_trip(tree, exported / "quilt")


def test_gbp_pq_changes_nothing_of_a_sender_with_an_odd_name(
    queue: Project, tree: Git, tmp_path: Path
) -> None:
    packagers.needs("gbp")
    export(queue, tmp_path / "signed", Person("Dr. Ünal: Émile", "e@example-mail.org"))
    assert not packagers.gbp_round_trip(tree, tmp_path / "signed/quilt")


def test_each_patch_has_the_fields_of_dep3(exported: Path) -> None:
    for name in (exported / "quilt/series").read_text().split():
        head = (exported / "quilt" / name).read_text().partition("\n---\n")[0]
        first, *paragraphs = head.split("\n\n")
        fields = [line.partition(":")[0] for line in first.splitlines() if line[0] != " "]
        assert fields[:3] == ["From", "Date", "Subject"]
        # A second set of fields begins with one that DEP-3 has.
        assert paragraphs[-1].startswith("Forwarded: no\n")
