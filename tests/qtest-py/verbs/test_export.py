"""The whole queue, exported and taken by the programs that packagers and reviewers use."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from qap.fork import base, series
from qap.fork.git import Git
from qap.host.debian.sums import check
from qap.host.paths import Project
from qap.verify.kit import packagers
from qap.verify.kit.lab import Lab

PROJECT = Project.here()
TABLE = "| `"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packagers.exported(PROJECT, tmp_path_factory, None)


@pytest.fixture
def stock(exported: Path, tmp_path: Path) -> Git:
    return packagers.unpacked(PROJECT.base_tree, tmp_path / "stock")


@pytest.fixture(scope="module")
def fork(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The files of the fork, by their hashes."""
    folder = tmp_path_factory.mktemp("fork")
    Git(folder)("clone", "-q", "--shared", "--no-checkout", str(PROJECT.base_tree), "fork")
    git = Git(folder / "fork")
    return packagers.contents(git, series.commits(PROJECT, git))


def test_quilt_applies_the_queue_without_fuzz_or_offset(
    exported: Path, stock: Git, fork: str
) -> None:
    packagers.needs("quilt")
    said = packagers.apply_series(stock, exported / "quilt")
    assert said.count("Applying patch") == len(series.patches(PROJECT))
    assert "fuzz" not in said and "offset" not in said
    assert packagers.contents(stock) == fork


def test_gbp_pq_imports_and_exports_the_queue_without_a_change(exported: Path, stock: Git) -> None:
    packagers.needs("gbp")
    assert not packagers.gbp_round_trip(stock, exported / "quilt")


@pytest.mark.parametrize("setup", ["", "%autosetup -n qemu-{version} -p1"], ids=["git_am", "p1"])
def test_rpmbuild_prepares_the_fork(exported: Path, tmp_path: Path, fork: str, setup: str) -> None:
    packagers.needs("rpmspec", "rpmbuild", "xz")
    upstream = base.info(PROJECT)
    assert upstream is not None
    top = f"qemu-{upstream.version}"
    tarball = tmp_path / f"{top}.tar.xz"
    names = tmp_path / "names"
    names.write_text(Git(PROJECT.base_tree)("ls-files", "-z"))
    pack = ("tar", "-cf", tmp_path / "tar", "--null", "-T", names, "--transform")
    packagers.run(*pack, f"flags=rh;s,^,{top}/,", cwd=PROJECT.base_tree)
    packagers.run("sh", "-c", f"xz -0 -T2 <tar >{tarball.name}", cwd=tmp_path)
    where = f"-D_sourcedir {exported}/rpm"
    said = packagers.run("rpmspec", "-P", where, "rpm/qemu-qap.spec", cwd=exported)
    assert said[said.index("%patchlist") :].count(".patch\n") == len(series.patches(PROJECT))
    setup = setup.format(version=upstream.version)
    git = packagers.rpm_prepared(exported / "rpm", tarball, tmp_path / "rpm", setup)
    assert packagers.contents(git) == fork


def test_types_have_the_properties(exported: Path, lab: Lab) -> None:
    patches = json.loads((exported / "series.json").read_text())["patches"]
    named = {(each["of"], each["name"]) for patch in patches for each in patch["properties"]}
    there = set()
    for vm in (lab.machine(qtest=True), lab.s390x()):
        types = {each["name"] for each in vm.qmp.execute("qom-list-types", abstract=True)}
        for of in {of for of, _ in named} & types:
            listed = vm.qmp.execute("qom-list-properties", typename=of)
            there |= {(of, each["name"]) for each in listed}
    assert named and named - there == set()


def test_packit_knows_the_files(exported: Path) -> None:
    text = (exported / "rpm/.packit.yaml").read_text()
    settings = YAML(typ="safe").load(text)
    assert (exported / "rpm" / settings["specfile_path"]).is_file()
    for file in settings["files_to_sync"]:
        pattern = file["src"] if isinstance(file, dict) else file
        assert list((exported / "rpm").glob(pattern)), pattern


def test_another_day_elsewhere_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    packagers.needs("faketime")
    argv = [sys.executable, "-m", "qap", "export", str(tmp_path / "a b/out")]
    env = {"TZ": "Asia/Tokyo", "HOME": str(tmp_path), "LC_ALL": "C", "COLUMNS": "40"}
    env["QAP_BASE_SERIES"] = PROJECT.base_series
    packagers.run("faketime", "2031-05-06 07:08:09", *argv, cwd=PROJECT.root, env=env)
    assert packagers.files(tmp_path / "a b/out") == packagers.files(exported)


def test_no_path_of_this_machine_is_in_it(exported: Path) -> None:
    root = re.escape(str(PROJECT.root).encode())
    for name, content in packagers.files(exported).items():
        # A checkout may have a short path that is the end or the beginning of others.
        assert not re.search(rb"(?<![\w}])" + root + rb"(?![\w.-])", content), name


def test_debians_source_package_takes_the_queue(exported: Path, tmp_path: Path, fork: str) -> None:
    upstream = base.info(PROJECT)
    taken = base.bundle(PROJECT).taken()
    if upstream is None or not upstream.package_version or taken is None:
        pytest.skip("qemu/base is no package of Debian: run ./qap tree --source debian")
    (dsc,) = map(check, taken.files)
    for file in dsc.parent.glob("qemu_*"):
        shutil.copy(file, tmp_path)
    run = packagers.run
    run("dpkg-source", "-x", dsc.name, "source", cwd=tmp_path)
    run(exported / "debian/add-queue", cwd=tmp_path / "source")
    run("dpkg-source", "-b", "source", cwd=tmp_path)
    assert len(list(tmp_path.glob("*+qap1.dsc"))) == 1
    git = Git(tmp_path / "source")
    for name in (*upstream.left_out, ".pc"):
        shutil.rmtree(git.root / name, ignore_errors=True)
    git.init()
    git("add", "-A", "-f", ".")
    git("commit", "-q", "-m", "again")
    own = "debian/"
    assert packagers.contents(git, "HEAD", own) == "\n".join(
        line for line in fork.splitlines() if not line.partition("\t")[2].startswith(own)
    )


def test_every_patch_has_a_reason_a_maintainer_and_where_it_was_sent(exported: Path) -> None:
    patches = json.loads((exported / "series.json").read_text())["patches"]
    assert len(patches) == len(series.patches(PROJECT))
    for each in patches:
        assert each["forwarded"], each["patch"]
        assert each["changes"], each["patch"]
        assert "qemu-devel@nongnu.org" in each["maintainers"], each["patch"]


def test_packagers_page_names_the_properties_that_the_patches_add(exported: Path) -> None:
    patches = json.loads((exported / "series.json").read_text())["patches"]
    added = {each["name"] for patch in patches for each in patch["properties"]}
    page = (PROJECT.root / "docs/packager.md").read_text()
    table = page.partition("| property |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith(TABLE)]
    assert {line.split("`")[1] for line in rows} == added
