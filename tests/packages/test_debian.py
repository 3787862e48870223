"""Debian's package of QEMU with the queue, by the commands of docs/packager.md.

It is built and installed, and guests boot with it. This takes a quarter of an hour or more, root
and the network, and is not part of ./qap test:

./qap tree && .venv/bin/pytest -s tests/packages
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from qap.export.debian import SUFFIX
from qap.export.folder import export
from qap.fork import base, config
from qap.host.paths import Project, cache
from qap.oracle.fence import Outcome
from qap.scenario.observation import Observation
from qap.scenario.run import ScenarioRow
from qap.scenario.scenario import scenario
from qap.scenario.trial import Trial
from qap.verify.kit import packagers
from qap.verify.kit.chroot import Chroot, InstalledBuild, needs_root

PROJECT = Project.here()
SUITE = config.base(PROJECT).suites[0]
SOURCE, NEEDS, _EVERYTHING, X86, INSTALL = packagers.page_commands(PROJECT, "Debian")
HOUR = 3600.0
# Where the commands run.
FOLDER = "/build"
EMULATOR = "qemu-system-x86_64"
INSTALLED = {"qemu-system-x86", "qemu-system-common"}
# With iommu_platform=on: stock QEMU refuses virtiofs, and the fork's guest mounts it.
SCENARIOS = ("fs-pci-cold", "fs-pci-sev-hot")

pytestmark = pytest.mark.timeout(6 * HOUR)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_root()
    packagers.needs("mmdebstrap", "unshare")
    upstream = base.info(PROJECT)
    if upstream is None or not upstream.package_version:
        pytest.skip("qemu/base is no package of Debian: run ./qap tree --source debian")
    folder = tmp_path_factory.mktemp("export") / "out"
    export(PROJECT, folder, None)
    return folder


@pytest.fixture(scope="module")
def packages(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the commands build from the archive's source package."""
    logs, built = (tmp_path_factory.mktemp(name) for name in ("build-logs", "packages"))
    objects = cache() / "ccache-packages"
    objects.mkdir(parents=True, exist_ok=True)
    options = ("--variant=buildd", "--include=ccache")
    with Chroot.made(PROJECT, logs, SUITE, *options) as system:
        with_ccache = system.with_ccache(objects)
        shutil.copytree(exported, system.inside(f"{FOLDER}/out"))
        system.run("source", SOURCE, FOLDER, HOUR)
        (tree,) = system.inside(FOLDER).glob("qemu-*/")
        source = f"{FOLDER}/{tree.name}"
        system.run("build-dep", NEEDS, source, HOUR)
        with_ccache.run("build", X86, source, 4 * HOUR)
        return [Path(shutil.copy(deb, built)) for deb in system.inside(FOLDER).glob("*.deb")]


@pytest.fixture
def system(packages: list[Path], tmp_path: Path) -> Iterator[Chroot]:
    """A system with the archive's package, and those that were built in a folder."""
    options = ("--variant=apt", "--include=qemu-system-x86")
    with Chroot.made(PROJECT, tmp_path, SUITE, *options) as system:
        system.inside(FOLDER).mkdir()
        for deb in packages:
            shutil.copy(deb, system.inside(FOLDER))
        yield system


def seen(name: str, installed: InstalledBuild) -> Observation:
    return Trial(scenario(name), installed).run()


def test_every_package_has_the_queues_version(packages: list[Path]) -> None:
    named = dict(deb.name.split("_")[:2] for deb in packages)
    assert named.keys() >= INSTALLED
    assert all(version.endswith(SUFFIX) for version in named.values()), named


def test_guest_mounts_virtiofs_once_the_archives_package_is_replaced(
    system: Chroot, tmp_path: Path
) -> None:
    program = system.program(f"/usr/bin/{EMULATOR}", tmp_path / EMULATOR)
    version = f"{EMULATOR} --version"
    assert SUFFIX not in system.run("version", version, FOLDER, HOUR)
    stock = {
        name: seen(name, InstalledBuild("debian", True, emulator=program)) for name in SCENARIOS
    }
    system.run("install", INSTALL, f"{FOLDER}/source", HOUR)
    assert SUFFIX in system.run("version", version, FOLDER, HOUR)
    for name in SCENARIOS:
        fork = seen(name, InstalledBuild("debian", emulator=program))
        row = ScenarioRow(scenario(name), fork=fork, base=stock[name])
        print(f"{name}: {'; '.join(fork.said)}")
        assert not row.problems
        assert (row.base.outcome, row.fork.outcome) == (Outcome.REFUSED, Outcome.WORKS)
