"""A QEMU with a change in a source file, to check that a test fails with it.

Neither the tree nor its build is touched: a copy of the file is edited, compiled and linked
elsewhere into a second emulator, by the commands of the build.
"""

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qap.fork.build import Build
from qap.fork.ninja import ERROR
from qap.host.errors import MissingError, QapError, unknown_name

Edit = Callable[[str], str]
# QEMU looks for firmware in this folder beside its program.
BUNDLE = "qemu-bundle"


@dataclass(frozen=True)
class StandIn(Build):
    """A build in which a program is replaced by another.

    Args:
        tool: its name, such as qemu-system-x86_64.
        program: what runs in its place.
    """

    tool: str = ""
    program: Path = Path()

    def path(self, tool: str) -> Path:
        return self.program if tool == self.tool else super().path(tool)


def mutant(build: Build, system: str, source: str, edit: Edit, folder: Path) -> Path:
    """Change a source file of an emulator, compile it and link; takes some seconds.

    All other object files are the build's own. A #line directive keeps the original file's
    name and line numbers in assertions.

    Args:
        build: a build whose sources have not changed since.
        system: an emulator of it, such as qemu-system-x86_64.
        source: a C file below the tree, such as hw/virtio/virtio.c.
        edit: gets the file's text and returns the new text.
        folder: an empty folder for the result.
    Returns:
        The changed emulator.
    Raises:
        UsageError: the emulator does not contain this file.
        MissingError: the emulator has not been built, or ninja is missing.
        QapError: the edit changed nothing, or the result does not compile or link; has the
            compiler's error.
    """
    build.path(system)
    steps = {step["output"]: step for step in _steps(build)}
    link = shlex.split(steps[system]["command"])
    made_of = {
        _below_tree(build, steps[word]["file"]): steps[word] for word in link if word in steps
    }
    if source not in made_of:
        raise unknown_name(f"source file of {system}", source, made_of)
    step = made_of[source]
    original = build.tree / source
    text = original.read_text()
    changed = edit(text)
    if changed == text:
        raise QapError(f"the edit of {source} changed nothing")
    copy, part, emulator = folder / original.name, folder / "mutant.o", folder / system
    copy.write_text(f'#line 1 "{step["file"]}"\n{changed}')
    output = step["output"]
    compiler = _replaced(
        shlex.split(step["command"]),
        {step["file"]: copy, output: part, f"{output}.d": folder / "mutant.d"},
    )
    first = next(at for at, word in enumerate(compiler) if word.startswith("-"))
    # #include "..." looks in the including file's folder first, and the copy has another.
    compiler[first:first] = ["-iquote", str(original.parent), "-fno-diagnostics-show-caret"]
    _run(build, folder, compiler, f"{source} as edited does not compile")
    _run(
        build, folder, _replaced(link, {output: part, system: emulator}), f"{system} does not link"
    )
    (folder / BUNDLE).symlink_to((build.folder / BUNDLE).resolve())
    return emulator


def _steps(build: Build) -> list[dict[str, Any]]:
    """The commands of a build, with `file` and `output` relative to the build's folder."""
    argv = ["ninja", "-t", "compdb", "-x"]
    try:
        done = subprocess.run(argv, cwd=build.folder, capture_output=True, text=True, check=True)
    except FileNotFoundError as exc:
        raise MissingError("ninja is missing: install ninja-build") from exc
    except subprocess.CalledProcessError as exc:
        raise QapError(f"ninja can't tell how the {build.name} is built", exc.stderr) from exc
    steps: list[dict[str, Any]] = json.loads(done.stdout)
    return steps


def _below_tree(build: Build, file: str) -> str:
    path = (build.folder / file).resolve()
    tree = build.tree.resolve()
    return str(path.relative_to(tree)) if path.is_relative_to(tree) else str(path)


def _replaced(words: Sequence[str], others: dict[str, Path]) -> list[str]:
    return [str(others.get(word, word)) for word in words]


def _run(build: Build, folder: Path, argv: Sequence[str], failed: str) -> None:
    """Run a compiler in the build's folder, with a ccache of its own."""
    done = subprocess.run(
        argv,
        cwd=build.folder,
        env={**build.environment(), "CCACHE_DIR": str(folder / "ccache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if ERROR.search(line)), lines[-1] if lines else "")
        raise QapError(f"{failed}: {first}", "\n".join(lines))
