"""A further base: the patches that it shares, varies, does not need and does not have yet."""

import pytest

from qap.fork import base, series, variants
from qap.fork.patch import Patch
from qap.host import paths
from qap.host.errors import QapError, UsageError

from ..project import BASE_TOML, SOURCE, Project, commit, edit, write

# The repository's own queue; the fixtures make qap work on another one.
REAL = paths.Project.here()

VARIANT = ["variants/10.2/fence/pci-tell.patch", "variants/10.2/made-from"]
NEWER = BASE_TOML.replace('"10.0"', '"10.2"')


@pytest.fixture
def first(project: Project) -> Project:
    """Three patches in two topics on the first base, and its tree."""
    for name, subject, change in (
        ("fence/0001-bus-ask.patch", "bus: ask", ("hw/bus.c", "bus line 5\n", "bus asks\n")),
        ("fence/0002-pci-tell.patch", "pci: tell", ("hw/pci.c", "pci line 9\n", "pci tells\n")),
        ("ccw/0001-ccw-do.patch", "ccw: do", ("hw/ccw.c", "ccw line 9\n", "ccw does\n")),
    ):
        project.add_patch(name, subject, change)
    project.bring()
    series.ensure(project)
    return project


@pytest.fixture
def newer(first: Project) -> Project:
    """A further base, on which hw/pci.c reads differently around what a patch changes."""
    settle(first, "")
    project = first.on("10.2")
    upstream = project.root / "newer"
    for name, text in SOURCE.items():
        write(upstream / name, text)
    edit(upstream, "hw/pci.c", "pci line 8\n", "pci of 10.2\n")
    base.ensure(project, str(upstream))
    return project


def settle(project: Project, more: str) -> None:
    """Write the further base's file."""
    write(project.qemu / "bases" / "10.2.toml", NEWER + more)


def port(project: Project) -> None:
    """Do by hand what patch fence/0002 does."""
    settle(project, 'not_ported = ["fence/pci-tell", "ccw"]\n')
    series.ensure(project)
    commit(project.git, "pci: tell", ("hw/pci.c", "pci line 9\n", "pci tells\n"))
    settle(project, 'not_ported = ["ccw"]\n')


def test_each_base_has_its_own_trees_and_results(newer: Project) -> None:
    first = newer.on("10.0")
    assert first.base_tree != newer.base_tree
    assert first.tree != newer.tree
    assert first.results != newer.results
    assert first.patches == newer.patches
    assert newer.all_series() == ["10.0", "10.2"]


def test_base_that_there_is_not_is_named(first: Project) -> None:
    with pytest.raises(UsageError, match=r"unknown base '9\.2': valid: 10\.0"):
        first.on("9.2")


def test_file_of_another_base_is_refused(newer: Project) -> None:
    write(newer.base_toml, BASE_TOML)
    with pytest.raises(UsageError, match=r"10\.2\.toml: series is 10\.0"):
        series.ensure(newer)


def test_patch_that_does_not_apply_is_named(newer: Project) -> None:
    with pytest.raises(QapError, match=r"fence/0002-pci-tell\.patch does not apply: hw/pci\.c"):
        series.ensure(newer)


def test_commit_that_differs_becomes_a_variant_and_the_rest_is_shared(newer: Project) -> None:
    port(newer)
    before = newer.queue()
    assert series.refresh(newer) == [
        "variants/10.2/fence/pci-tell.patch",
        "variants/10.2/made-from",
    ]
    assert newer.queue() == before
    head = newer.git.head()
    series.ensure(newer, discard=True)
    assert newer.git("rev-parse", "HEAD^{tree}") == newer.git("rev-parse", f"{head}^{{tree}}")
    assert newer.log() == ["bus: ask", "pci: tell"]
    assert series.refresh(newer) == []


def test_variant_that_differs_no_more_is_removed(newer: Project) -> None:
    port(newer)
    series.refresh(newer)
    variant = newer.variants / "fence/pci-tell.patch"
    shared = newer.patches / "fence/0002-pci-tell.patch"
    shared.write_bytes(variant.read_bytes())
    assert series.refresh(newer) == VARIANT
    assert not variant.exists()
    assert variants.outdated(newer, series.shared(newer)) == []


def test_variant_stays_with_its_patch_when_the_number_changes(newer: Project) -> None:
    port(newer)
    series.refresh(newer)
    (newer.patches / "fence/0002-pci-tell.patch").rename(
        newer.patches / "fence/0007-pci-tell.patch"
    )
    newer.series.write_text(newer.series.read_text().replace("0002-", "0007-"))
    (_, tell) = series.patches(newer)
    assert tell.path == newer.variants / "fence/pci-tell.patch"


def test_patch_that_changes_under_its_variant_is_told(newer: Project) -> None:
    port(newer)
    series.refresh(newer)
    assert variants.outdated(newer, series.shared(newer)) == []
    shared = newer.patches / "fence/0002-pci-tell.patch"
    text = shared.read_text()
    shared.write_text(text.replace("@@ -6,", "@@ -7,").replace("index ", "index 1"))
    assert variants.outdated(newer, series.shared(newer)) == []
    shared.write_text(text.replace("pci tells", "pci yells"))
    assert variants.outdated(newer, series.shared(newer)) == ["fence/0002-pci-tell.patch"]
    # A refresh that leaves the variant as it is has not looked at the patch.
    assert series.refresh(newer) == []
    assert variants.outdated(newer, series.shared(newer)) == ["fence/0002-pci-tell.patch"]


def test_patch_that_the_base_does_not_need_is_left_out(newer: Project) -> None:
    settle(newer, '[dropped]\n"fence/pci-tell" = "10.2 tells by itself"\n')
    series.ensure(newer)
    assert newer.log() == ["bus: ask", "ccw: do"]
    assert len(series.patches(newer.on("10.0"))) == 3


@pytest.mark.parametrize("key", ["dropped", "not_ported"])
def test_name_that_the_queue_has_not_is_refused(newer: Project, key: str) -> None:
    said = {"dropped": '[dropped]\n"fence/no" = "x"\n', "not_ported": 'not_ported = ["fence/no"]\n'}
    settle(newer, said[key])
    with pytest.raises(UsageError, match=rf"10\.2\.toml: {key}: qemu/series has no fence/no"):
        series.patches(newer)


def test_variant_of_no_patch_is_refused(newer: Project) -> None:
    write(newer.variants / "fence/bus-asked.patch", "From 0\n")
    with pytest.raises(UsageError, match=r"fence/bus-asked\.patch is a variant of no patch"):
        series.patches(newer)


def test_refresh_refuses_a_patch_of_this_base_alone(newer: Project) -> None:
    port(newer)
    commit(newer.git, "bus: only here", ("hw/bus.c", "bus line 30\n", "here\n"))
    with pytest.raises(QapError, match=r"has no “bus: only here”: a patch begins on the first"):
        series.refresh(newer)


def test_refresh_refuses_to_forget_a_patch(newer: Project) -> None:
    settle(newer, 'not_ported = ["fence/pci-tell", "ccw"]\n')
    series.ensure(newer)
    settle(newer, 'not_ported = ["ccw"]\n')
    with pytest.raises(QapError, match=r"no commit of fence/0002.*under dropped or not_ported"):
        series.refresh(newer)


def test_refresh_keeps_the_queue_s_order(newer: Project) -> None:
    settle(newer, 'not_ported = ["fence/pci-tell", "fence/bus-ask", "ccw"]\n')
    series.ensure(newer)
    commit(newer.git, "pci: tell", ("hw/pci.c", "pci line 9\n", "pci tells\n"))
    commit(newer.git, "bus: ask", ("hw/bus.c", "bus line 5\n", "bus asks\n"))
    settle(newer, 'not_ported = ["ccw"]\n')
    with pytest.raises(QapError, match="“pci: tell” stands where qemu/series has “bus: ask”"):
        series.refresh(newer)


# this repository


@pytest.mark.parametrize("name", REAL.all_series())
def test_every_base_of_this_repository_is_right(name: str) -> None:
    names = [patch.name for patch in series.patches(REAL.on(name))]
    assert names == [patch.name for patch in series.shared(REAL) if patch.name in names]


def test_titles_of_this_repository_tell_patches_apart() -> None:
    """A variant is found by its patch's title."""
    names = [variants.key(patch.name) for patch in series.shared(REAL)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", REAL.all_series())
def test_variant_says_the_same_as_its_patch(name: str) -> None:
    """Tests and the fault are the same on each base."""
    project = REAL.on(name)
    for patch, shared in beside_shared(project):
        for key in ("Test", "Fixes", "Forwarded"):
            assert patch.trailers(key) == shared.trailers(key), (patch.name, key)


def beside_shared(project: paths.Project) -> list[tuple[Patch, Patch]]:
    """Each patch of a base with that of qemu/patches."""
    shared = {patch.name: patch for patch in series.shared(project)}
    return [(patch, shared[patch.name]) for patch in series.patches(project)]
