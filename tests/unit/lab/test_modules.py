"""Modules are compiled for exactly the kernel that the guest boots, and failures say why."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from qap.host.debian.failure import Reason, Unavailable
from qap.host.debian.suite import Suite
from qap.host.errors import MissingError, QapError, UsageError
from qap.lab.modules import FILES, NAMES, KernelModules, bundles, depends
from qap.machine import catalog
from qap.machine.catalog import Guest

from ..packages import cached
from ..programs import Programs

COMPILER = "x86_64-linux-gnu-gcc"
GUEST = Guest(
    name="test",
    qemu="x86_64",
    architecture="amd64",
    suites=("trixie",),
    kernel="linux-image-amd64",
    headers="linux-headers-amd64",
    console="ttyS0",
    machine="q35",
    cpu="max",
    boot_silence=60,
)
# What the kernel's makefiles do here: a module holds its source, and then what make was told. A
# program of kbuild has to find the C library that came with it.
MAKEFILE = """\
include $(M)/Kbuild
CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT := y
TOOL := $(firstword $(wildcard scripts/tool))
modules: $(obj-m:%.o=$(M)/%.ko)
$(M)/%.ko: $(M)/%.c
\t@test $(*F) != $(BROKEN) || { echo "$<:1: $(SAYS)"; exit 1; }
\t@$(TOOL) -c 'grep -q "$(dir $(M)).*root/usr/lib/x86_64-linux-gnu/libc" /proc/$$$$/maps' tool
\t@{ cat $<; echo '$(CC) <$(CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT)>'; cat .config; } >$@
\t@echo '  LD [M]  $@'
"""
NEEDS = {
    "vringh": "vhost_iotlb",
    "vdpa_sim": "vringh,vdpa",
    "vdpa_sim_blk": "vdpa_sim",
    "vdpa_sim_net": "vringh,vdpa_sim",
    "vp_vdpa": "vdpa",
    "mtty": "",
}


def add_kernel(version: str) -> None:
    release = f"{version}+deb13-amd64"
    modules = f"lib/modules/{release}"
    files = {
        f"boot/vmlinuz-{release}": b"",
        f"boot/config-{release}": b"",
        f"{modules}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
        f"{modules}/listed": b"kernel/vdpa.ko.xz:\nkernel/vhost_iotlb.ko.xz:\n",
    }
    cached("linux-image-amd64", f"{version}-1", needs=f"linux-image-{release} (= {version}-1)")
    cached(f"linux-image-{release}", f"{version}-1", files, "kmod")


def add_source(version: str, leave_out: str = "") -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as archive:
        for file in FILES:
            if file != leave_out:
                data = f"{version}\0depends={NEEDS.get(Path(file).stem, '')}\0\n".encode()
                info = tarfile.TarInfo(f"linux-source-6.12/{file}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    files = {"usr/src/linux-source-6.12.tar.xz": content.getvalue()}
    cached("linux-source", f"{version}-1", needs=f"linux-source-6.12 (= {version}-1)")
    cached("linux-source-6.12", f"{version}-1", files)


def add_headers(version: str) -> None:
    abi = f"{version}+deb13"
    src, kbuild = f"usr/src/linux-headers-{abi}", f"linux-kbuild-{abi}"
    cached("linux-headers-amd64", f"{version}-1", needs=f"linux-headers-{abi}-amd64")
    needs = f"linux-base, linux-headers-{abi}-common (= {version}-1), {kbuild}, gcc-14"
    files = {f"{src}-amd64/.config": f"config {version}\n".encode()}
    cached(f"linux-headers-{abi}-amd64", f"{version}-1", files, needs)
    makefile = MAKEFILE.replace("scripts/", f"$(CURDIR)/../../lib/{kbuild}/scripts/")
    files = {f"{src}-common/Makefile": makefile.encode()}
    cached(f"linux-headers-{abi}-common", f"{version}-1", files)
    # A shell stands in for kbuild's programs.
    files = {f"usr/lib/{kbuild}/scripts/tool": Path("/bin/dash").read_bytes()}
    cached(kbuild, f"{version}-1", files, "libc6 (>= 2.38), pahole")


def add_packages(version: str) -> None:
    add_source(version)
    add_headers(version)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Programs) -> Programs:
    """A cache with the packages of version 6.12.5; the rest of Debian can't be reached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BROKEN", "none")
    programs.add(COMPILER, "echo compiler 12.2")
    programs.add("depmod", 'cd "$2/lib/modules/$3" && cp listed modules.dep')
    loader = Path("/lib64/ld-linux-x86-64.so.2").read_bytes()
    library = Path("/lib/x86_64-linux-gnu/libc.so.6").read_bytes()
    files = {
        "usr/lib64/ld-linux-x86-64.so.2": loader,
        "usr/lib/x86_64-linux-gnu/libc.so.6": library,
    }
    cached("libc6", "2.41-1", files, "libgcc-s1")
    add_kernel("6.12.5")
    add_packages("6.12.5")
    offline(monkeypatch)
    return programs


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def bring(suite: Suite, packages: Sequence[str]) -> None:
        raise Unavailable(Reason.NO_NETWORK, "no network")

    monkeypatch.setattr(Suite, "_bring", bring)


def in_archive(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let the archive have headers and source of another version."""
    monkeypatch.setattr(Suite, "_bring", lambda suite, packages: add_packages(version))


def test_modules_are_compiled_with_the_kernels_own_headers(archive: Programs) -> None:
    folder = KernelModules(GUEST).bring()
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.ko" for name in NAMES)
    for path in folder.iterdir():
        text = path.read_text()
        assert text.startswith("6.12.5\0") and text.endswith(f"{COMPILER} <>\nconfig 6.12.5\n")


def test_they_are_compiled_once(archive: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    folder = KernelModules(GUEST).bring()
    assert "modules for 6.12.5+deb13-amd64: 6/6" in capfd.readouterr().err
    assert KernelModules(GUEST).bring() == folder
    assert capfd.readouterr().err == ""
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def test_another_compiler_compiles_them_anew(archive: Programs) -> None:
    folder = KernelModules(GUEST).bring()
    archive.add(COMPILER, "echo compiler 14.2")
    assert KernelModules(GUEST).bring() != folder


def test_headers_from_before_a_newer_kernel_are_replaced(
    archive: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    KernelModules(GUEST).bring()
    add_kernel("6.12.6")
    in_archive(monkeypatch, "6.12.6")
    folder = KernelModules(GUEST).bring()
    assert folder.name.startswith("6.12.6+deb13-amd64-")
    assert (folder / "mtty.ko").read_text().endswith("config 6.12.6\n")


def test_kernel_whose_headers_are_gone_is_named(
    archive: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_archive(monkeypatch, "6.12.7")
    add_packages("6.12.7")
    with pytest.raises(
        QapError,
        match=r"^modules:test has version 6\.12\.7-1 in trixie, and the kernel is 6\.12\.5-1: "
        r"remove \S+/apt/trixie/amd64/files/linux-\* to take a newer kernel, then \./qap fetch$",
    ):
        KernelModules(GUEST).bring()
    assert not (tmp_path / "cache/qemu-access-platform/modules").exists()


def test_packages_of_different_versions_are_refused(
    archive: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bring(suite: Suite, packages: Sequence[str]) -> None:
        add_headers("6.12.5")
        add_source("6.12.4")

    monkeypatch.setattr(Suite, "_bring", bring)
    add_source("6.12.4")
    with pytest.raises(QapError, match=r"has version 6\.12\.4-1 in trixie, and the kernel is"):
        KernelModules(GUEST).bring()


def test_offline_without_headers_is_one_line(archive: Programs) -> None:
    add_packages("6.12.4")
    with pytest.raises(MissingError, match=r"^cannot bring modules:test, .*no network.*$"):
        KernelModules(GUEST).bring()


def test_what_the_source_lacks_is_named(archive: Programs) -> None:
    add_source("6.12.5", leave_out="samples/vfio-mdev/mtty.c")
    with pytest.raises(QapError, match=r"^linux-source-6\.12_\S+ can't be unpacked$") as caught:
        KernelModules(GUEST).bring()
    assert "samples/vfio-mdev/mtty.c: Not found in archive" in caught.value.detail


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("error: no such member", "do not build"),
        ("fatal error: No space left on device", "do not build: the disk is full, free some of it"),
    ],
)
def test_why_it_does_not_compile_is_cited(
    archive: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str, message: str
) -> None:
    monkeypatch.setenv("BROKEN", "vp_vdpa")
    monkeypatch.setenv("SAYS", says)
    with pytest.raises(
        QapError, match=rf"^the modules for 6\.12\.5\+deb13-amd64 {message}$"
    ) as caught:
        KernelModules(GUEST).bring()
    assert f"vp_vdpa.c:1: {says}" in caught.value.detail
    assert [*(tmp_path / "cache/qemu-access-platform/modules").glob("*/")] == []


def test_missing_compiler_is_named(archive: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.real("dpkg-deb", "tar", "cp")
    (archive.folder / COMPILER).unlink()
    monkeypatch.setenv("PATH", str(archive.folder))
    with pytest.raises(MissingError, match="gcc is missing: install gcc-x86-64-linux-gnu"):
        KernelModules(GUEST).bring()


def test_files_are_in_the_order_to_load_them(archive: Programs) -> None:
    files = KernelModules(GUEST).files(("vdpa-sim-net", "ext4", "mtty", "vp_vdpa"))
    assert [file.name for file in files] == [
        "vhost_iotlb.ko.xz",
        "vringh.ko",
        "vdpa.ko.xz",
        "vdpa_sim.ko",
        "vdpa_sim_net.ko",
        "mtty.ko",
        "vp_vdpa.ko",
    ]
    assert depends(files[1]) == ("vhost_iotlb",) and depends(files[5]) == ()


def test_unknown_module_is_answered_with_near_ones(archive: Programs) -> None:
    with pytest.raises(UsageError, match=r"unknown kernel module 'mmty': did you mean .*mtty"):
        KernelModules(GUEST).files(("mmty",))


def test_guest_without_headers_is_refused(archive: Programs) -> None:
    with pytest.raises(UsageError, match=r"^the guest test names no headers to compile modules"):
        KernelModules(GUEST.model_copy(update={"headers": ""})).bring()


def test_guests_that_name_headers_have_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "guests", lambda: {"test": GUEST})
    assert [bundle.name for bundle in bundles()] == ["modules:test"]
    assert bundles()[0].packages == ("linux-headers-amd64:amd64", "linux-source:amd64")
