"""What a further base has instead of some patches: variants, and patches that it lacks.

qemu/patches apply to the first base. On another one, a patch that differs has a variant in
qemu/variants/SERIES. A variant is named by topic and title, without the patch's number, so that
a patch can be put before others without a change of their variants.
"""

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from qap.fork import config
from qap.fork.git import Git
from qap.fork.patch import Patch, formatted
from qap.host.errors import QapError, UsageError
from qap.host.paths import Project, shown

SEEN = "made-from"


def key(name: str) -> str:
    """A patch's topic and title: "fence/virtio-bus-show" of "fence/0001-virtio-bus-show.patch"."""
    return re.sub(r"/\d+-", "/", name).removesuffix(".patch")


def path(project: Project, name: str) -> Path:
    """The file that a variant of a patch has, or would have."""
    return project.variants / f"{key(name)}.patch"


def of_base(project: Project, shared: Sequence[Patch]) -> list[Patch]:
    """The queue as the project's base has it.

    Args:
        shared: the patches of qemu/series.
    Raises:
        UsageError: the base's file names a patch that there is not, or a variant belongs to none.
    """
    settings = config.base(project)
    keys = {key(patch.name) for patch in shared}
    topics = {patch.topic for patch in shared}
    for name in settings.dropped.keys() - keys:
        raise UsageError(f"{shown(project.base_toml)}: dropped: qemu/series has no {name}")
    for name in set(settings.not_ported) - keys - topics:
        raise UsageError(f"{shown(project.base_toml)}: not_ported: qemu/series has no {name}")
    lacking = {*settings.dropped, *settings.not_ported}
    queue = []
    for patch in shared:
        if not lacking & {key(patch.name), patch.topic}:
            variant = path(project, patch.name)
            queue.append(Patch(patch.name, variant if variant.exists() else patch.path))
    used = {patch.path for patch in queue}
    for variant in sorted(project.variants.glob("*/*.patch")):
        if variant not in used:
            raise UsageError(
                f"{shown(variant)} is a variant of no patch of this base: "
                "rename it with its patch, or remove it"
            )
    return queue


def numbers_left_out(text: str) -> str:
    """A patch without what changes in it when a file changes elsewhere."""
    message, _, rest = text.partition("\n---\n")
    diff = rest.partition("\ndiff --git ")[2]
    kept = [
        re.sub(r"^@@ .*? @@.*", "@@", line)
        for line in diff.splitlines()
        if not line.startswith("index ")
    ]
    return "\n".join([message, *kept])


def _digest(patch: Patch) -> str:
    data = numbers_left_out(patch.text).encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).hexdigest()


def _seen(project: Project) -> dict[str, str]:
    """What the patches were when their variants were made: a digest for each name."""
    file = project.variants / SEEN
    if not file.exists():
        return {}
    pairs = (line.split() for line in file.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def outdated(project: Project, shared: Sequence[Patch]) -> list[str]:
    """Names of patches that have changed since their variant was made."""
    seen = _seen(project)
    there = [patch for patch in shared if path(project, patch.name).exists()]
    return [patch.name for patch in there if seen.get(key(patch.name)) != _digest(patch)]


def refresh(
    project: Project, git: Git, shared: Sequence[Patch], commits: Sequence[str]
) -> list[str]:
    """Write the commits that differ from their patches as variants, and remove all others.

    Args:
        commits: those of the project's tree, on its base.
    Returns:
        The names of the files that were changed, added or removed.
    Raises:
        QapError: the commits are not those of the base's queue.
    """
    by_subject = {patch.subject: patch for patch in shared}
    subjects = [git("log", "-1", "--format=%s", commit).strip() for commit in commits]
    _match(project, of_base(project, shared), subjects)
    made = {}
    for commit, subject in zip(commits, subjects, strict=True):
        patch = by_subject[subject]
        if not _same(git, commit, patch):
            made[patch.name] = formatted(git, commit)
    return _write(project, shared, made)


def _same(git: Git, commit: str, patch: Patch) -> bool:
    """Whether a commit is what the patch makes of the commit's parent."""
    parent = git("rev-parse", f"{commit}^").strip()
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        git("read-tree", parent, env={"GIT_INDEX_FILE": str(index)})
        try:
            made = patch.commit(git, parent, index)
        except QapError:
            return False
    shows = ("log", "-1", "--format=%T%n%an <%ae> %ad%n%B")
    return git(*shows, commit) == git(*shows, made)


def _write(project: Project, shared: Sequence[Patch], made: Mapping[str, str]) -> list[str]:
    """Write variants, given by the names of their patches, and remove all others."""
    seen, fresh, changed = _seen(project), {}, []
    for patch in shared:
        variant = path(project, patch.name)
        title = str(variant.relative_to(project.qemu))
        if patch.name not in made:
            if variant.exists():
                variant.unlink()
                changed.append(title)
            continue
        data = made[patch.name].encode("utf-8", "surrogateescape")
        same = variant.exists() and variant.read_bytes() == data
        if not same:
            variant.parent.mkdir(parents=True, exist_ok=True)
            variant.write_bytes(data)
            changed.append(title)
        name = key(patch.name)
        fresh[name] = seen[name] if same and name in seen else _digest(patch)
    text = "".join(f"{digest}  {name}\n" for name, digest in fresh.items())
    file = project.variants / SEEN
    if text != (file.read_text() if file.exists() else ""):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        changed.append(str(file.relative_to(project.qemu)))
    return changed


def _match(project: Project, queue: Sequence[Patch], subjects: Sequence[str]) -> None:
    """Fail unless these are the subjects of the queue's patches, in its order.

    Raises:
        QapError: one is missing, is not in the queue, or comes too early.
    """
    wanted = [patch.subject for patch in queue]
    where = shown(project.base_toml)
    for subject in subjects:
        if subject not in wanted:
            raise QapError(
                f"the queue of this base has no “{subject}”: a patch begins on the first base, "
                f"with ./qap refresh; and {where} must not name it"
            )
    for patch in queue:
        if patch.subject not in subjects:
            raise QapError(
                f"{project.tree.relative_to(project.root)} has no commit of {patch.name}: "
                f"make one, or name {key(patch.name)} in {where}, under dropped or not_ported"
            )
    for subject, expected in zip(subjects, wanted, strict=True):
        if subject != expected:
            raise QapError(f"“{subject}” stands where qemu/series has “{expected}”: keep its order")
