"""A QEMU with one source file changed, to see that something notices.

Neither the tree nor its build is touched: a copy of the file is edited, compiled and linked
elsewhere, by the commands of the build, to a second emulator.
"""

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qap.fork.build import ERROR, Build
from qap.host.errors import MissingError, QapError, unknown_name

Edit = Callable[[str], str]
# Beside its own program QEMU finds the firmware here.
BUNDLE = "qemu-bundle"


@dataclass(frozen=True)
class StandIn(Build):
    """A build in which one program is another one.

    Args:
        tool: its name, such as qemu-system-x86_64.
        program: what runs in its place.
    """

    tool: str = ""
    program: Path = Path()

    def path(self, tool: str) -> Path:
        return self.program if tool == self.tool else super().path(tool)


def mutant(build: Build, system: str, source: str, edit: Edit, folder: Path) -> Path:
    """Change one source file of an emulator, and link that anew; takes some seconds.

    The rest is as it was, to the byte: even the changed file says that it is the original,
    so that assertions name the same place.

    Args:
        build: a build whose sources are as they were when it was built.
        system: an emulator of it, such as qemu-system-x86_64.
        source: a C file below the tree, such as hw/virtio/virtio.c.
        edit: gets the file's text and returns what is to be in its place.
        folder: an empty one, for what is made.
    Returns:
        The changed emulator.
    Raises:
        UsageError: the emulator is not made of this file.
        MissingError: the emulator has not been built, or ninja is missing.
        QapError: the edit changed nothing, or the result does not compile or link; says
            why in the compiler's words.
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
    # What a file includes in quotes is looked for beside it before anywhere else.
    compiler[first:first] = ["-iquote", str(original.parent), "-fno-diagnostics-show-caret"]
    _run(build, folder, compiler, f"{source} as edited does not compile")
    _run(
        build, folder, _replaced(link, {output: part, system: emulator}), f"{system} does not link"
    )
    (folder / BUNDLE).symlink_to((build.folder / BUNDLE).resolve())
    return emulator


def _steps(build: Build) -> list[dict[str, Any]]:
    """Every command of a build with its `file` and `output`, relative to the build's folder."""
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
    """Run a compiler where the build runs it; what it makes has no place in the cache."""
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
