"""Configure and build: what they run, and what they report."""

import json
import sys
from pathlib import Path

import pytest

from qap.fork import base, series
from qap.fork.build import Build
from qap.fork.ninja import first_error
from qap.host.errors import MissingError, QapError, UsageError

from ..programs import Programs
from ..project import PROFILE_TOML, Project, write

COMPILER = """\
FAILED: libcommon.a.p/hw_virtio_virtio-bus.c.o
cc -m64 -Ilibcommon.a.p -O2 -Werror -o libcommon.a.p/hw_virtio_virtio-bus.c.o -c ../../hw/bus.c
../../hw/virtio/virtio-bus.c: In function 'virtio_bus_device_plugged':
../../hw/virtio/virtio-bus.c:41:5: warning: statement with no effect [-Wunused-value]
../../hw/virtio/virtio-bus.c:42:16: error: 'vdev' undeclared (first use in this function)
   42 |     bool has = vdev;
      |                ^~~~
../../hw/virtio/virtio-bus.c:43:1: error: control reaches end of non-void function
"""
LINKER = """\
FAILED: qemu-img
cc -m64 -o qemu-img qemu-img.p/qemu-img.c.o -Wl,--start-group libblock.a
/usr/bin/ld: libblock.a(block.c.o): in function `bdrv_open':
/usr/bin/ld: ../../block.c:12:(.text+0x1): undefined reference to `bdrv_nothing'
collect2: error: ld returned 1 exit status
"""
BESIDE_ERROR_H = """\
FAILED: libcommon.a.p/hw_bus.c.o
cc -c ../../hw/bus.c
In file included from ../../include/qapi/error.h:275,
                 from ../../hw/bus.c:3:
../../include/qemu/typedefs.h:9:1: error: unknown type name 'Bus'
"""
CONFIGURE = """\
Using './build' as the directory for build output
../../meson.build:1:0: Running command
../../meson.build:812:10: ERROR: Dependency "glib-2.0" not found (tried pkg-config)

A full log can be found at meson-logs/meson-log.txt
"""


@pytest.fixture
def fork(project: Project, programs: Programs) -> Build:
    """The fork of a small project whose configure works, with a fake ninja."""
    configure(project, "exit 0")
    programs.add("ninja", "exit 0")
    return Build("small")


def configure(project: Project, script: str) -> Path:
    """Give QEMU another configure script; returns the file that counts its runs."""
    runs = project.root / "configured"
    text = f'#!/bin/sh\necho "$@" >>"{runs}"\n: >build.ninja\n{script}\n'
    write(project.source / "configure", text)
    project.bring()
    return runs


# the first error in what ninja prints


@pytest.mark.parametrize(
    ("said", "target", "command", "error"),
    [
        (COMPILER, "virtio-bus.c.o", "-c ../../hw/bus.c", "42:16: error: 'vdev' undeclared"),
        (LINKER, "qemu-img", "-Wl,--start-group", "undefined reference to `bdrv_nothing'"),
        pytest.param(
            BESIDE_ERROR_H,
            "hw_bus.c.o",
            "cc -c",
            "unknown type name 'Bus'",
        ),
    ],
)
def test_first_error_has_target_command_and_error(
    said: str, target: str, command: str, error: str
) -> None:
    lines = first_error(said.splitlines()).splitlines()
    assert len(lines) == 3
    for line, part in zip(lines, (target, command, error), strict=True):
        assert part in line


def test_failure_without_words_has_no_first_error() -> None:
    assert first_error([]) == ""


def test_ninja_s_own_error_stands_alone() -> None:
    said = "ninja: error: unknown target 'qemu-system-vax'"
    assert first_error([said]) == said


# where programs are


def test_program_that_is_not_built_says_how_to_build_it(project: Project) -> None:
    with pytest.raises(MissingError, match=r"qemu-img \(fork.* \./qap build --profile small$"):
        Build("small").path("qemu-img")
    with pytest.raises(MissingError, match=r"\(base.* \./qap build --profile small --base$"):
        Build("small", is_base=True).path("qemu-img")


def test_program_of_another_profile_is_unknown(project: Project) -> None:
    with pytest.raises(UsageError, match="unknown tool 'qemu-imgs': did you mean qemu-img"):
        Build("small").path("qemu-imgs")


@pytest.mark.parametrize("is_base", [True, False])
def test_program_is_in_its_build_folder(project: Project, is_base: bool) -> None:
    tree = project.base_tree if is_base else project.tree
    write(tree / "build/small/qemu-system-x86_64", "")
    program = Build("small", is_base).path("qemu-system-x86_64")
    assert program == tree / "build/small/qemu-system-x86_64"


def test_storage_daemon_is_where_qemu_s_build_puts_it(project: Project) -> None:
    project.profile("small", PROFILE_TOML.replace("qemu-img", "qemu-storage-daemon"))
    with pytest.raises(MissingError):
        Build("small").path("qemu-storage-daemon")
    write(project.tree / "build/small/storage-daemon/qemu-storage-daemon", "")
    assert Build("small").path("qemu-storage-daemon").exists()


# configure


def test_configure_is_given_the_profile(project: Project, fork: Build) -> None:
    fork.make()
    words = (project.root / "configured").read_text().split()
    assert "--target-list=x86_64-softmmu" in words
    assert "--enable-tcg" in words
    assert "--disable-download" in words
    assert f"--python={sys.prefix}/bin/python" in words


def test_configure_runs_again_only_when_the_profile_changes(project: Project, fork: Build) -> None:
    runs = project.root / "configured"
    fork.make()
    fork.make()
    assert len(runs.read_text().splitlines()) == 1
    project.profile("small", PROFILE_TOML.replace("--enable-tcg", "--enable-kvm"))
    Build("small").make()
    assert len(runs.read_text().splitlines()) == 2


def test_configure_runs_again_where_meson_was_interrupted(project: Project, fork: Build) -> None:
    """ninja runs meson when its files change; a meson that is killed leaves no build.ninja."""
    fork.make()
    (fork.folder / "build.ninja").unlink()
    fork.make()
    assert len((project.root / "configured").read_text().splitlines()) == 2


def test_configure_that_fails_is_reported_by_its_error(project: Project, fork: Build) -> None:
    runs = configure(project, f"cat <<'END'\n{CONFIGURE}END\nexit 1")
    with pytest.raises(QapError, match=r"configure of fork failed .* see qemu/tree/build/") as fail:
        fork.make()
    error, command = fail.value.detail.splitlines()
    assert error.endswith('ERROR: Dependency "glib-2.0" not found (tried pkg-config)')
    assert command.startswith("command: ../../configure ")
    with pytest.raises(QapError, match="configure of fork failed"):
        fork.make()
    assert len(runs.read_text().splitlines()) == 2


def test_profile_tried_in_vain_is_forgotten(project: Project, fork: Build) -> None:
    """After a failed configure the folder is not as the one before left it: run it again."""
    fork.make()
    runs = configure(project, "case $* in *--bad*) exit 1;; esac")
    project.profile("small", PROFILE_TOML.replace("--enable-tcg", "--bad"))
    with pytest.raises(QapError, match="configure of fork failed"):
        Build("small").make()
    project.profile("small", PROFILE_TOML)
    Build("small").make()
    assert len(runs.read_text().splitlines()) == 3


def test_configure_that_fails_without_an_error_shows_its_end(project: Project, fork: Build) -> None:
    configure(project, "echo first; echo second; echo third; echo last; exit 1")
    with pytest.raises(QapError) as fail:
        fork.make()
    assert fail.value.detail.splitlines()[:3] == ["second", "third", "last"]


def test_device_lists_are_linked_out_of_git_s_sight(project: Project, fork: Build) -> None:
    ours = project.configs / "devices/x86_64-softmmu/qap-few.mak"
    write(ours, "CONFIG_VIRTIO=y\n")
    write(project.source / "configs/devices/x86_64-softmmu/default.mak", "")
    project.bring()
    project.profile("small", 'devices = "qap-few"\n' + PROFILE_TOML)
    fork.make()
    link = project.tree / "configs/devices/x86_64-softmmu/qap-few.mak"
    assert link.read_text() == "CONFIG_VIRTIO=y\n"
    assert not link.readlink().is_absolute()
    assert project.git("status", "--porcelain", "--untracked-files=all") == ""
    assert "--with-devices-x86_64=qap-few" in (project.root / "configured").read_text()


def test_firmware_that_is_elsewhere_on_this_distribution_is_linked_once(
    project: Project, fork: Build
) -> None:
    project.profile("small", PROFILE_TOML.replace("/usr/share/qemu", "/nowhere/roms"))
    fork.make()
    fork.make()
    assert (fork.folder / "qemu-bundle/nowhere/roms").readlink() == Path("/nowhere/roms")


# ninja


def test_progress_counts_ninja_s_steps(fork: Build, programs: Programs) -> None:
    done = 'for n in 1 2 3; do echo "$NINJA_STATUS" | sed "s/%f/$n/;s/%t/3/;s/\\$/step $n/"; done'
    programs.add("ninja", f"{done}\necho 'a warning, or so'")
    seen: list[tuple[int, int, str]] = []
    fork.make(lambda *step: seen.append(step))
    assert [step for step in seen if step[1]] == [(n, 3, f"step {n}") for n in (1, 2, 3)]


def test_ninja_is_asked_for_the_profile_s_programs_only(fork: Build, programs: Programs) -> None:
    fork.make()
    (call,) = programs.calls()
    assert call == f"ninja -C {fork.folder} qemu-system-x86_64 qemu-img"


def test_ninja_that_fails_is_reported_by_its_first_error(fork: Build, programs: Programs) -> None:
    programs.add("ninja", f"echo '@1/9@ Compiling'\ncat <<'END'\n{COMPILER}END\nexit 1")
    with pytest.raises(QapError, match=r"^the build of fork failed \(profile small\)$") as fail:
        fork.make()
    assert fail.value.detail == first_error(COMPILER.splitlines())
    assert fork.provenance() == {}


def test_build_remembers_what_it_was_made_from(project: Project, fork: Build) -> None:
    project.add_patch("fence/0001-b.patch", "b", ("hw/bus.c", "bus line 5\n", "five\n"))
    fork.make()
    stock = Build("small", is_base=True)
    stock.make()
    assert fork.provenance()["commit"] == project.git.head() != base.require(project).commit
    assert fork.provenance()["queue"] == series.digest(project)
    assert stock.provenance()["commit"] == base.require(project).commit
    assert stock.provenance()["queue"] == ""
    assert (stock.provenance()["build"], stock.provenance()["qemu"]) == ("base", "10.0.99")
    assert json.loads((stock.folder / "qap-build.json").read_text()) == stock.provenance()


def test_missing_ninja_is_named(
    fork: Build, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs.folder / "ninja").unlink()
    programs.real("git", "env", "sh")
    monkeypatch.setenv("PATH", str(programs.folder))
    with pytest.raises(MissingError, match="ninja"):
        fork.make()
