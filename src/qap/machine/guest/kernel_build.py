"""A kernel that is compiled from Debian's source package, where no package has it ready."""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qap.host.debian.package import unpack
from qap.host.debian.sums import check
from qap.host.errors import MissingError, QapError
from qap.host.lock import locked
from qap.host.paths import cache
from qap.host.process import reading
from qap.host.progress import Progress, bar

CONFIG = "config"
# Much of the source, which none of our guests needs. Kconfig files are needed, all of them.
LEFT_OUT = ("*/arch/[!s]*/*.[chS]", "*/arch/*/dts/*", "*/drivers/gpu/*.[ch]", "*/tools/testing/*")
SETTINGS = {
    "KBUILD_BUILD_USER": "qap",
    "KBUILD_BUILD_HOST": "qap",
    "KBUILD_BUILD_TIMESTAMP": "2025-01-01",
}
PLAN = " -c -o "
STEP = re.compile(r"^  (?:CC|AS) +(\S+)")
ERROR = re.compile(
    r"\berror: |undefined reference|can't open|^make.*\*\*\*|: not found|failed to execute"
)


@dataclass(frozen=True)
class Toolchain:
    """What the kernel's makefiles must be told to compile for an architecture.

    Attributes:
        arch: their name of it.
        prefix: of the compiler and its companions.
        image: the file to boot.
    """

    arch: str
    prefix: str
    image: str

    @property
    def compiler(self) -> str:
        return f"{self.prefix}gcc"

    @property
    def version(self) -> str:
        """The compiler's name and version, in its words.

        Raises:
            MissingError: it is not installed.
        """
        try:
            done = subprocess.run(
                [self.compiler, "--version"], capture_output=True, text=True, check=True
            )
        except FileNotFoundError as exc:
            package = f"gcc-{self.prefix.rstrip('-')}"
            raise MissingError(f"{self.compiler} is missing: install {package}") from exc
        return done.stdout.splitlines()[0]


# By Debian's name of the architecture.
TOOLCHAINS = {"s390x": Toolchain("s390", "s390x-linux-gnu-", "arch/s390/boot/bzImage")}


@dataclass(frozen=True)
class KernelBuild:
    """A kernel to compile.

    Args:
        name: for its folder in the cache and for messages.
        architecture: Debian's name of it.
        package: the .deb with the source, such as linux-source-5.10's.
        recipe: a folder with the kernel's `config`, all of what is on in it, and patches.
    """

    name: str
    architecture: str
    package: Path
    recipe: Path

    def bring(self) -> Path:
        """A folder with boot/ and lib/modules/ as in a kernel package; made once and cached.

        Raises:
            MissingError: a program that this takes is not installed.
            QapError: the source is damaged, a patch does not apply, an option can't be switched
                on, or it does not compile.
        """
        home = cache() / "kernels"
        target = home / f"{self.name}-{self._key}"
        if target.exists():
            return target
        with bar(f"kernel {self.name}") as progress:
            busy = partial(progress, 0, 0, "waits for another build to end")
            with locked(home, busy):
                for left in home.glob("tmp*"):
                    shutil.rmtree(left)
                if not target.exists():
                    with tempfile.TemporaryDirectory(dir=home) as scratch:
                        self._build(Path(scratch), progress).rename(target)
        return target

    @property
    def _toolchain(self) -> Toolchain:
        return TOOLCHAINS[self.architecture]

    @property
    def _patches(self) -> list[Path]:
        return sorted(self.recipe.glob("*.patch"))

    @property
    def _key(self) -> str:
        """A hash of all that decides what the kernel is."""
        state = hashlib.sha256()
        for part in (self.package.stem, self._toolchain.version, str(SETTINGS)):
            state.update(f"{part}\0".encode())
        for file in (self.recipe / CONFIG, *self._patches):
            state.update(file.read_bytes() + b"\0")
        return state.hexdigest()[:16]

    def _build(self, scratch: Path, progress: Progress) -> Path:
        """Compile it below `scratch`; returns the folder to keep."""
        source, root = scratch / "source", scratch / "root"
        progress(0, 0, "unpack")
        self._unpack(scratch, source)
        progress(0, 0, "configure")
        self._make(source, "allnoconfig")
        self._check_config(source)
        self._make(source, "prepare")
        total = self._planned(source)
        done = 0

        def count(line: str) -> None:
            nonlocal done
            if (match := STEP.match(line)) and done < total:
                done += 1
                progress(done, total, match[1])

        self._make(source, "bzImage", each=count)
        self._keep(source, root)
        return root

    def _planned(self, source: Path) -> int:
        """About how many files are to be compiled: make's own plan, for the progress."""
        planned: list[bool] = []
        # Even a dry run tries to link, and fails.
        with contextlib.suppress(QapError):
            self._make(
                source, "--dry-run", "vmlinux", each=lambda line: planned.append(PLAN in line)
            )
        return sum(planned)

    def _unpack(self, scratch: Path, source: Path) -> None:
        check(self.package)
        archive = f"./usr/src/{self.package.name.partition('_')[0]}.tar.xz"
        unpack(self.package, scratch, [archive])
        source.mkdir()
        left_out = [f"--exclude={pattern}" for pattern in LEFT_OUT]
        argv = ["tar", "-xf", str(scratch / archive), "--strip-components=1", *left_out]
        _run(argv, source, f"{self.package.name} can't be unpacked")
        for patch in self._patches:
            argv = ["patch", "-p1", "--fuzz=0", "--batch", "-i", str(patch)]
            _run(argv, source, f"{patch.name} does not apply to {self.package.name}")

    def _check_config(self, source: Path) -> None:
        """An option whose dependencies are not on is silently left out; that would be found late.

        Raises:
            QapError: it is so.
        """
        have = set((source / ".config").read_text().splitlines())
        wanted = (self.recipe / CONFIG).read_text().splitlines()
        lost = [line for line in wanted if line.startswith("CONFIG_") and line not in have]
        if lost:
            raise QapError(f"{self.package.name} can't have {', '.join(lost)} ({self.recipe.name})")

    def _make(
        self, source: Path, *words: str, each: Callable[[str], None] = lambda line: None
    ) -> None:
        """Run make in the source.

        Args:
            each: called with each line that it prints.
        Raises:
            QapError: it failed, or there is no make.
        """
        tools = self._toolchain
        ccache = "ccache " if shutil.which("ccache") else ""
        argv = [
            *("setpriv", "--pdeathsig", "TERM", "--", "make"),
            f"-j{os.cpu_count()}",
            f"ARCH={tools.arch}",
            f"CROSS_COMPILE={tools.prefix}",
            f"CC={ccache}{tools.compiler}",
            *words,
        ]
        settings = {"KCONFIG_ALLCONFIG": str(self.recipe / CONFIG), "LC_ALL": "C", **SETTINGS}
        errors = []
        with reading(argv, env={**os.environ, **settings}, cwd=source) as process:
            assert process.stdout is not None
            for line in process.stdout:
                each(line)
                if ERROR.search(line):
                    errors.append(line.rstrip("\n"))
            status = process.wait()
        if status:
            raise QapError(
                f"the kernel {self.name} does not build (make {words[-1]})", "\n".join(errors[:5])
            )

    def _keep(self, source: Path, root: Path) -> None:
        release = (source / "include/config/kernel.release").read_text().strip()
        modules = root / "lib/modules" / release
        for folder in (root / "boot", modules):
            folder.mkdir(parents=True)
        shutil.copy(source / self._toolchain.image, root / "boot" / f"vmlinuz-{release}")
        shutil.copy(source / ".config", root / "boot" / f"config-{release}")
        shutil.copy(source / "modules.builtin", modules)
        (modules / "modules.dep").touch()


def _run(argv: list[str], cwd: Path, failed: str) -> None:
    """Run a program; raises QapError, with `failed` as its message, if it fails."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise QapError(failed, (done.stderr + done.stdout).strip())
