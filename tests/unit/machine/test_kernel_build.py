"""A kernel is compiled once for a source, a configuration and a compiler, and failures say why."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from qap.host.debian.sums import write_sums
from qap.host.errors import QapError
from qap.machine.guest.kernel import Kernel
from qap.machine.guest.kernel_build import CONFIG, KernelBuild

from ..programs import Programs

COMPILER = "s390x-linux-gnu-gcc"
# A kernel of two files, with the steps that ours takes.
MAKEFILE = """\
allnoconfig:
\tgrep -v LOST $(KCONFIG_ALLCONFIG) >.config
prepare:
bzImage: one.o two.o
\tmkdir -p include/config arch/s390/boot
\techo 5.10.1-test >include/config/kernel.release
\tcat one.c >arch/s390/boot/bzImage
\techo kernel/drivers/net/virtio_net.ko >modules.builtin
%.o: %.c
\t@echo '  CC      $@'
\t@test $@ != $(BROKEN) || { echo "$<:1: error: it is broken"; exit 1; }
\t@true $(CC) -c -o $@
"""
PATCH = """\
--- a/one.c
+++ b/one.c
@@ -1 +1 @@
-one
+first
"""


@dataclass(frozen=True)
class Source:
    """A source package, and how to build it."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe"

    def make(self, version: str = "5.10.1-1") -> KernelBuild:
        """Write the package, whose checksum is recorded."""
        tree, package = self.folder / "linux-source-5.10", self.folder / "package"
        for folder in (tree, self.recipe, package / "DEBIAN", package / "usr/src"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("one", "two"):
            (tree / f"{name}.c").write_text(f"{name}\n")
        (tree / "Makefile").write_text(MAKEFILE)
        archive = package / "usr/src/linux-source-5.10.tar.xz"
        run("tar", "-C", self.folder, "-cJf", archive, tree.name)
        control = f"Package: linux-source-5.10\nVersion: {version}\nArchitecture: all\n"
        control += "Maintainer: Nobody <nobody@test>\nDescription: nothing\n"
        (package / "DEBIAN/control").write_text(control)
        debs = self.folder / f"debs-{version}"
        debs.mkdir()
        run("dpkg-deb", "--build", "--root-owner-group", package, debs)
        write_sums(debs)
        (deb,) = debs.glob("*.deb")
        return KernelBuild("test", "s390x", deb, self.recipe)


def run(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Programs) -> Source:
    """One without patches; the compiler is a fake one that tells its version."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BROKEN", "none")
    programs.add(COMPILER, "echo compiler 12.2")
    made = Source(tmp_path)
    made.recipe.mkdir()
    (made.recipe / CONFIG).write_text("CONFIG_NET=y\n")
    return made


def test_kernel_is_laid_out_as_a_package_has_it(source: Source) -> None:
    kernel = Kernel(source.make().bring())
    assert kernel.release == "5.10.1-test"
    assert kernel.image.read_text() == "one\n"
    assert kernel.modules(("virtio_net",)) == []
    assert (kernel.root / "boot/config-5.10.1-test").read_text() == "CONFIG_NET=y\n"


def test_it_is_compiled_once(source: Source, capfd: pytest.CaptureFixture[str]) -> None:
    build = source.make()
    root = build.bring()
    assert "kernel test: configure" in capfd.readouterr().err
    assert build.bring() == root
    assert capfd.readouterr().err == ""
    assert [path.name for path in root.parent.iterdir() if path.is_dir()] == [root.name]


def test_what_decides_about_it_is_part_of_its_name(source: Source, programs: Programs) -> None:
    roots = [source.make().bring()]
    (source.recipe / CONFIG).write_text("CONFIG_NET=y\nCONFIG_TTY=y\n")
    roots.append(source.make("5.10.1-2").bring())
    (source.recipe / "first.patch").write_text(PATCH)
    roots.append(source.make("5.10.1-3").bring())
    assert Kernel(roots[-1]).image.read_text() == "first\n"
    build = source.make("5.10.1-4")
    roots.append(build.bring())
    programs.add(COMPILER, "echo compiler 14.2")
    roots.append(KernelBuild("test", "s390x", build.package, source.recipe).bring())
    assert len(set(roots)) == len(roots)


def test_option_that_can_not_be_on_is_named(source: Source) -> None:
    (source.recipe / CONFIG).write_text("CONFIG_NET=y\nCONFIG_LOST=y\n")
    with pytest.raises(QapError, match=r"linux-source-5\.10_\S+ can't have CONFIG_LOST=y"):
        source.make().bring()


def test_patch_that_does_not_apply_is_named(source: Source) -> None:
    (source.recipe / "first.patch").write_text(PATCH.replace("-one", "-eins"))
    with pytest.raises(QapError, match=r"first\.patch does not apply to linux-source-5\.10"):
        source.make().bring()


def test_compiler_is_cited(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BROKEN", "two.o")
    with pytest.raises(QapError, match="kernel test does not build") as caught:
        source.make().bring()
    assert "two.c:1: error: it is broken" in caught.value.detail
    assert [*(tmp_path / "cache").glob("*/kernels/*/")] == []


def test_what_a_killed_build_left_is_removed(source: Source, tmp_path: Path) -> None:
    left = tmp_path / "cache/qemu-access-platform/kernels/tmpleft/source"
    left.mkdir(parents=True)
    root = source.make().bring()
    assert not left.parent.exists() and root.exists()
