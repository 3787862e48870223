"""A kernel that is compiled from Debian's source package, where no package has it ready."""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qap.host.errors import QapError
from qap.host.made import made_once
from qap.host.paths import cache
from qap.host.progress import Progress
from qap.machine.guest.kernel_source import (
    SETTINGS,
    TOOLCHAINS,
    Toolchain,
    make,
    run,
    unpack_source,
)

CONFIG = "config"
# Much of the source, which none of our guests needs. Kconfig files are needed, all of them.
LEFT_OUT = ("*/arch/[!s]*/*.[chS]", "*/arch/*/dts/*", "*/drivers/gpu/*.[ch]", "*/tools/testing/*")
PLAN = " -c -o "
STEP = re.compile(r"^  (?:CC|AS) +(\S+)")


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
        target = cache() / "kernels" / f"{self.name}-{self._key}"
        return made_once(target, f"kernel {self.name}", self._build)

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
        left_out = [f"--exclude={pattern}" for pattern in LEFT_OUT]
        unpack_source(self.package, scratch, source, "--strip-components=1", *left_out)
        for patch in self._patches:
            argv = ["patch", "-p1", "--fuzz=0", "--batch", "-i", str(patch)]
            run(argv, source, f"{patch.name} does not apply to {self.package.name}")

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
        make(
            source,
            *self._toolchain.words,
            *words,
            failed=f"the kernel {self.name} does not build (make {words[-1]})",
            settings={"KCONFIG_ALLCONFIG": str(self.recipe / CONFIG)},
            each=each,
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
