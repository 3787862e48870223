"""`qap doctor`: the programs on this machine, the builds, and their sources."""

import os
import platform
import shutil
from pathlib import Path

from rich.markup import escape

from qap import __version__
from qap.cli import archive
from qap.cli.fetch import origin
from qap.fork import base, config, series
from qap.fork.build import Build
from qap.host.debian.bundle import Bundle
from qap.host.paths import Project, cache
from qap.host.report import bad, good, table

PROGRAMS = {
    "apt-get": "brings QEMU's source and the guests' kernels",
    "dpkg-source": "unpacks the source",
    "depmod": "resolves kernel modules",
    "gcc": "builds QEMU",
    "ninja": "builds QEMU",
    "flex": "builds QEMU",
    "bison": "builds QEMU",
    "pkg-config": "finds QEMU's libraries",
    "git": "holds the patched tree",
    "ccache": "makes the second build quick",
    "setpriv": "ends processes with their owner",
    "valgrind": "counts instructions",
    "gdb": "says where QEMU crashed or hangs",
}


def _size(folder: Path) -> str:
    total = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    return f"{total / (1 << 20):.0f} MiB"


def _unsupported() -> str:
    return "" if platform.machine() == "x86_64" else bad(": only x86_64 hosts work so far")


def _builds(project: Project) -> list[list[str]]:
    rows = []
    for name in config.profiles(project):
        for build in (Build(name, True, project), Build(name, False, project)):
            record = build.provenance()
            if not record:
                rows.append([f"{build.name}, {name}", "[dim]not built[/]"])
                continue
            version = record["package_version"] or record["source"]
            text = f"QEMU {record['qemu']} ({version}), commit {record['commit'][:12]}"
            fresh = build.is_base or record["queue"] == series.digest(project)
            rows.append(
                [f"{build.name}, {name}", good(text) if fresh else bad(f"{text}: patches changed")]
            )
    return rows


def _base(project: Project) -> list[list[str]]:
    """The rows of a base: its source, its queue and its builds."""
    upstream = base.info(project)
    brought = f"[dim]not brought yet: ./qap tree{project.option}[/]"
    rows = [[f"base {project.base_series}", good(upstream.title) if upstream else brought]]
    if upstream or project.is_first:
        queue = f"{len(series.patches(project))} patches, sha256 {series.digest(project)[:12]}"
        rows += [["queue", queue], *_builds(project)]
    return rows


def _fetched(bundle: Bundle) -> list[str]:
    taken = bundle.taken()
    return [bundle.name, origin(taken) if taken else "[dim]not brought yet: ./qap fetch[/]"]


def show() -> bool:
    """Print the table; returns whether all the programs are installed."""
    project = Project.here()
    rows = [
        ["qap", __version__],
        ["machine", f"{platform.machine()}, {os.cpu_count()} processors" + _unsupported()],
        *(row for name in project.all_series() for row in _base(project.on(name))),
        ["cache", f"{escape(str(cache()))}, {_size(cache()) if cache().exists() else 'empty'}"],
        *map(_fetched, archive.everything()),
        ["accelerator", "TCG; KVM is never probed, only used where asked for by name"],
    ]
    fine = True
    for program, purpose in PROGRAMS.items():
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        fine = fine and path is not None
        rows.append([program, good(path) if path else bad(f"missing: {purpose}")])
    table("qap doctor", ["what", "found"], rows)
    return fine
