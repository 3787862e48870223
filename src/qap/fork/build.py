"""Configure and build a base's tree, or the fork's, under a profile."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Self

from qap.fork import base, config, series
from qap.fork.git import Git
from qap.fork.ninja import first_error, ninja
from qap.host.errors import MissingError, QapError, UsageError, unknown_name
from qap.host.lock import locked
from qap.host.paths import BASE_SERIES, Project, shown
from qap.host.progress import Progress, bar, quiet

UNDER_TEST = "QAP_BUILD"
PROFILE = "QAP_PROFILE"


def _here() -> Project:
    return Project.here()


@dataclass(frozen=True)
class Build:
    """One build of QEMU.

    Args:
        profile: a name in configs/profiles/.
        is_base: build the unpatched upstream rather than the fork.
        project: whose trees are built.
    """

    profile: str
    is_base: bool = False
    project: Project = field(default_factory=_here)

    @classmethod
    def under_test(cls) -> Self:
        """The build that QAP_BUILD, QAP_PROFILE and QAP_BASE_SERIES name.

        They are fork, lab and 10.0 if they are not set.

        Raises:
            UsageError: there is no such build or base.
        """
        name = os.environ.get(UNDER_TEST, "fork")
        if name not in ("fork", "base"):
            raise unknown_name(UNDER_TEST, name, ("fork", "base"))
        return cls(os.environ.get(PROFILE, "lab"), is_base=name == "base")

    def as_under_test(self) -> dict[str, str]:
        """The environment variables by which `under_test` finds this build."""
        series = self.project.base_series
        return {UNDER_TEST: self.name, PROFILE: self.profile, BASE_SERIES: series}

    @property
    def name(self) -> str:
        return "base" if self.is_base else "fork"

    @cached_property
    def settings(self) -> config.Profile:
        return config.profile(self.project, self.profile)

    @property
    def is_sanitized(self) -> bool:
        """Whether sanitizers watch it: it is slow, and keeps memory that it has freed."""
        return "--enable-asan" in self.settings.configure

    @property
    def tree(self) -> Path:
        return self.project.base_tree if self.is_base else self.project.tree

    @property
    def folder(self) -> Path:
        return self.tree / "build" / self.profile

    @property
    def _record(self) -> Path:
        return self.folder / "qap-build.json"

    def tools(self) -> dict[str, str]:
        """The programs to build, each with its path in the build folder."""
        names = [f"qemu-system-{target.removesuffix('-softmmu')}" for target in self._systems()]
        inside = {"qemu-storage-daemon": "storage-daemon/qemu-storage-daemon"}
        return {name: inside.get(name, name) for name in [*names, *self.settings.tools]}

    def _systems(self) -> Iterator[str]:
        return (target for target in self.settings.targets if target.endswith("-softmmu"))

    def path(self, tool: str) -> Path:
        """A built program.

        Raises:
            UsageError: the profile builds no such program.
            MissingError: it has not been built yet.
        """
        if tool not in self.tools():
            raise unknown_name("tool", tool, self.tools())
        program = self.folder / self.tools()[tool]
        if not program.exists():
            flags = (" --base" if self.is_base else "") + self.project.option
            raise MissingError(
                f"{tool} ({self.name}, profile {self.profile}) is not built: "
                f"run ./qap build --profile {self.profile}{flags}"
            )
        return program

    def provenance(self) -> dict[str, str]:
        """What was built, when and from what; empty before the first build."""
        if not self._record.exists():
            return {}
        record: dict[str, str] = json.loads(self._record.read_text())
        return record

    def _configure_argv(self) -> list[str]:
        compiler = "ccache gcc" if shutil.which("ccache") else "gcc"
        profile = self.settings
        argv = [
            "../../configure",
            # sys.executable may be python, python3 or python3.11: each would configure again.
            f"--python={Path(sys.prefix) / 'bin' / 'python'}",
            f"--cc={compiler}",
            f"--host-cc={compiler}",
            f"--target-list={','.join(profile.targets)}",
            f"--firmwarepath={':'.join(profile.firmwarepath)}",
            "--with-pkgversion=qemu-access-platform",
            "--disable-download",
            *profile.configure,
        ]
        if profile.devices:
            argv += [
                f"--with-devices-{target.removesuffix('-softmmu')}={profile.devices}"
                for target in self._systems()
            ]
        return argv

    def _link_devices(self) -> None:
        """Link the project's device lists to where configure looks; git ignores them."""
        if not self.settings.devices:
            return
        exclude = self.tree / ".git" / "info" / "exclude"
        exclude.parent.mkdir(exist_ok=True)
        ignored = "configs/devices/*/qap-*.mak\n/build/\n"
        if not exclude.exists() or exclude.read_text() != ignored:
            exclude.write_text(ignored)
        for target in self._systems():
            name = f"{self.settings.devices}.mak"
            link = self.tree / "configs/devices" / target / name
            ours = self.project.configs / "devices" / target / name
            wanted = os.path.relpath(ours, link.parent)
            if not link.is_symlink() or str(link.readlink()) != wanted:
                link.unlink(missing_ok=True)
                link.symlink_to(wanted)

    def _link_firmware(self) -> None:
        """Let a program find firmware when it runs from its build folder.

        It then looks for absolute paths below qemu-bundle/.
        """
        for name in self.settings.firmwarepath:
            link = self.folder / "qemu-bundle" / name.lstrip("/")
            # It leads nowhere where the distribution has its firmware elsewhere.
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(name)

    def environment(self) -> dict[str, str]:
        """The environment of a build; with it, ccache works across clones of the project."""
        return {
            **os.environ,
            "CCACHE_BASEDIR": str(self.project.root),
            "CCACHE_NOHASHDIR": "1",
            "CCACHE_COMPILERCHECK": "content",
            "NINJA_STATUS": "@%f/%t@ ",
            "LC_ALL": "C.UTF-8",
        }

    def make(self, progress: Progress = quiet, extra: Sequence[str] = ()) -> None:
        """Fetch the source, configure and build whatever is not up to date.

        Args:
            progress: called with steps done, steps in all and what is being done.
            extra: more targets of ninja, such as tests/qtest/qos-test.
        Raises:
            QapError: configure or the build failed; `detail` has the command and its first
                error.
        """
        # Said before the trees are made: that takes a while.
        config.profile(self.project, self.profile)
        root = self.project.root
        if re.search(r"[\s:]", str(root)):
            raise UsageError(f"QEMU can't be built below {root}: its path has a space or a colon")
        busy = partial(progress, 0, 0, "waits for another build to end")
        with locked(self.project.qemu, busy):
            base.ensure(self.project)
            if not self.is_base:
                series.ensure(self.project)
            self._configure(progress)
            self._link_firmware()
            self._ninja(progress, extra)
            self._firmware(progress)
            self._write_record()

    def _configure(self, progress: Progress) -> None:
        self._link_devices()
        argv = self._configure_argv()
        stamp = self.folder / "qap-configure.json"
        # An interrupted run of meson leaves no build.ninja.
        whole = stamp.exists() and (self.folder / "build.ninja").exists()
        if whole and json.loads(stamp.read_text()) == argv:
            return
        progress(0, 0, "configure")
        stamp.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "qap-configure.log"
        with log.open("wb") as out:
            status = subprocess.run(
                argv,
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        if status:
            text = log.read_text(errors="replace").strip().splitlines()
            errors = [line for line in text if "ERROR" in line] or text[-3:]
            raise QapError(
                f"configure of {self.name} failed (profile {self.profile}), see {shown(log)}",
                "\n".join([*errors[:3], f"command: {' '.join(argv)}"]),
            )
        stamp.write_text(json.dumps(argv))

    def _ninja(self, progress: Progress, extra: Sequence[str]) -> None:
        argv = ["-C", str(self.folder), *self.tools().values(), *extra]
        failed = ninja(argv, self.environment(), progress)
        if failed is not None:
            raise QapError(f"the build of {self.name} failed (profile {self.profile})", failed)

    def _firmware(self, progress: Progress) -> None:
        for name in self.settings.firmware:
            image = self.folder / name
            if not (image.parent / "config-host.mak").exists():
                raise MissingError(
                    f"configure found no compiler for {name}: install gcc-s390x-linux-gnu, remove "
                    f"{shown(self.folder / 'qap-configure.json')} and build again"
                )
            progress(0, 0, image.name)
            done = subprocess.run(
                ["make", "-C", str(image.parent), "GIT_SUBMODULES_ACTION=ignore", image.name],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            if done.returncode:
                raise QapError(
                    f"the build of {name} failed ({self.name}, profile {self.profile})",
                    first_error(done.stderr.splitlines()),
                )

    def _write_record(self) -> None:
        upstream = base.require(self.project)
        record = {
            "build": self.name,
            "profile": self.profile,
            "qemu": upstream.version,
            "package_version": upstream.package_version,
            "source": upstream.source,
            "commit": upstream.commit if self.is_base else Git(self.tree).head(),
            "queue": "" if self.is_base else series.digest(self.project),
        }
        if record != self.provenance():
            self._record.write_text(json.dumps(record, indent=2) + "\n")


def make(build: Build, *extra: str) -> None:
    """Build with a progress bar; `extra` are further targets of ninja."""
    with bar(f"{build.name} ({build.profile})") as progress:
        build.make(progress, extra)
