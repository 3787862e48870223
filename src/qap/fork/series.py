"""The patch queue: from qemu/series and qemu/patches to commits in qemu/tree, and back."""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qap.fork import base, variants
from qap.fork.git import Git, GitError
from qap.fork.patch import Patch, formatted
from qap.host.errors import QapError, UsageError
from qap.host.paths import Project

TIP = "refs/qap/tip"
BASE_TAG = "refs/tags/qap-base"


def patches(project: Project) -> list[Patch]:
    """The queue as the project's base has it, in order.

    Raises:
        UsageError: a line of qemu/series names a patch that does not exist, or the base's file
            or a variant does.
    """
    queue = shared(project)
    return queue if project.is_first else variants.of_base(project, queue)


def shared(project: Project) -> list[Patch]:
    """All patches of qemu/series, where lines that start with # are comments.

    Raises:
        UsageError: a line names a patch that does not exist.
    """
    queue = []
    for number, line in enumerate(project.series.read_text().splitlines(), 1):
        name = line.partition("#")[0].strip()
        if name:
            path = project.patches / name
            if not path.exists():
                raise UsageError(f"qemu/series line {number}: qemu/patches/{name} is missing")
            queue.append(Patch(name, path))
    return queue


def digest(project: Project) -> str:
    """A hash of the whole queue and its order."""
    state = hashlib.sha256()
    for patch in patches(project):
        state.update(patch.name.encode() + b"\0" + patch.path.read_bytes() + b"\0")
    return state.hexdigest()


@dataclass(frozen=True)
class TreeState:
    """The state of qemu/tree.

    Attributes:
        commits: the commits on top of the base, oldest first; None if it has another base.
        local: it has commits that did not come from the queue.
        dirty: it has changes that are not committed.
    """

    commits: list[str] | None
    local: bool
    dirty: bool


def state(project: Project) -> TreeState:
    """The state of qemu/tree."""
    git = Git(project.tree)
    head = _resolved(git, "HEAD")
    if not head:
        return TreeState([], local=False, dirty=False)
    start = base.require(project).commit
    follows = _resolved(git, start) and _is_ancestor(git, start, head)
    commits = git("rev-list", "--reverse", f"{start}..HEAD").split() if follows else None
    dirty = bool(git("status", "--porcelain", "--untracked-files=no").strip())
    return TreeState(commits, head != _resolved(git, TIP), dirty)


def commits(project: Project, git: Git, upto: int | None = None) -> str:
    """Make the queue's commits (its first `upto` patches) in `git`; returns the last."""
    parent = base.require(project).commit
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        git("read-tree", parent, env={"GIT_INDEX_FILE": str(index)})
        for patch in patches(project)[:upto]:
            parent = patch.commit(git, parent, index)
    return parent


def ensure(project: Project, *, discard: bool = False, update: bool = False) -> Path:
    """Make qemu/tree from the queue; files that don't change keep their times.

    Args:
        discard: throw away commits and changes made in qemu/tree.
        update: fail if there are any (`qap tree`). If False, a tree with such work
            is left as it is (`qap build`).
    Raises:
        QapError: a patch does not apply, or work in qemu/tree would be lost.
    """
    upstream = base.ensure(project)
    git = Git(project.tree)
    fresh = not (project.tree / ".git").exists()
    if fresh:
        git.init()
    elif not discard:
        stamp = _stamp(git)
        if stamp == f"{upstream.commit} {digest(project)}" and not update:
            return project.tree
        now = state(project)
        if not update and (now.local or now.dirty):
            return project.tree
        refuse_to_lose(project)
    # Copy the objects: the next qemu/base may not have them.
    git("fetch", "-q", "--no-tags", str(project.base_tree), f"+HEAD:{BASE_TAG}")
    tip = commits(project, git)
    git("reset", "-q", "--hard", tip)
    git("update-ref", TIP, tip)
    git("config", "qap.queue", f"{upstream.commit} {digest(project)}")
    return project.tree


def refuse_to_lose(project: Project) -> None:
    """Fail if making the fork's tree again would lose work done in it.

    Raises:
        QapError: it has commits of its own or uncommitted changes.
    """
    if not (project.tree / ".git").exists():
        return
    now = state(project)
    if now.local or now.dirty:
        what = "changes that are not committed" if now.dirty else "commits of its own"
        raise QapError(
            f"{_name(project)} has {what}: keep them with `./qap refresh{project.option}`, "
            f"or throw them away with `./qap tree{project.option} --discard`"
        )


def _name(project: Project) -> str:
    return str(project.tree.relative_to(project.root))


def _is_ancestor(git: Git, old: str, new: str) -> bool:
    try:
        git("merge-base", "--is-ancestor", old, new)
    except GitError:
        return False
    return True


def _resolved(git: Git, name: str) -> str:
    """The commit that a name refers to; "" if there is none."""
    try:
        return git("rev-parse", "--verify", "-q", f"{name}^{{commit}}").strip()
    except GitError:
        return ""


def _stamp(git: Git) -> str:
    try:
        return git("config", "--get", "qap.queue").strip()
    except GitError:
        return ""


def refresh(project: Project, topic: str | None = None) -> list[str]:
    """Write the commits of qemu/tree back to qemu/patches and qemu/series.

    A commit keeps the topic of the patch with its subject; a new one takes `topic`,
    or that of the commit before it. On a further base, qemu/patches and qemu/series stay as
    they are: a commit that differs from its patch becomes a variant.

    Returns:
        The names of the files that were changed, added or removed.
    Raises:
        QapError: qemu/tree has changes that are not committed, is in the middle of a
            rebase, or has another base; or a further base's commits are not those of its queue.
    """
    git, name = Git(project.tree), _name(project)
    now = state(project)
    if any((project.tree / ".git" / name).exists() for name in ("rebase-merge", "rebase-apply")):
        raise QapError(f"{name} is in the middle of a rebase: finish or abort it first")
    if now.dirty:
        raise QapError(f"{name} has changes that are not committed: commit them first")
    if now.commits is None:
        raise QapError(
            f"{name} does not stand on {base.require(project).title}: "
            f"in {name}, git rebase its commits onto qap-base"
        )
    if project.is_first:
        changed = _write(project, _files(project, git, now.commits, topic))
    else:
        changed = variants.refresh(project, git, shared(project), now.commits)
    git("update-ref", TIP, "HEAD")
    git("config", "qap.queue", f"{base.require(project).commit} {digest(project)}")
    return changed


def _files(project: Project, git: Git, commits: Sequence[str], topic: str | None) -> dict[str, str]:
    """The files of qemu/patches that commits become."""
    topics = {patch.subject: patch.topic for patch in patches(project)}
    written: dict[str, str] = {}
    counts: dict[str, int] = {}
    current = topic
    for commit in commits:
        subject = git("log", "-1", "--format=%s", commit).strip()
        current = topics.get(subject) or topic or current
        if current is None:
            raise UsageError(f"which topic is “{subject}”? Say --topic NAME")
        counts[current] = counts.get(current, 0) + 1
        name = f"{current}/{counts[current]:04d}-{_slug(subject)}.patch"
        written[name] = formatted(git, commit)
    return written


def _slug(subject: str) -> str:
    """The file name that git format-patch would use: at most 52 characters of the subject."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", subject).strip("-.")[:52].rstrip("-.")


def _write(project: Project, written: dict[str, str]) -> list[str]:
    changed = []
    for name, text in written.items():
        path = project.patches / name
        data = text.encode("utf-8", "surrogateescape")
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            changed.append(name)
    for path in sorted(project.patches.glob("*/*.patch")):
        name = str(path.relative_to(project.patches))
        if name not in written:
            path.unlink()
            changed.append(name)
    text = project.series.read_text()
    fresh = _series_text(text.splitlines(), list(written))
    if fresh != text:
        project.series.write_text(fresh)
        changed.append("series")
    return changed


def _series_text(lines: list[str], names: list[str]) -> str:
    """qemu/series with the new names; comments stay where they are, on a line or above it.

    If the first paragraph has only comments, it stays at the top of the file. Comments above
    a topic's patches move above its first patch; if the topic has no patches any more,
    they stay above what follows.
    """
    named = {line.partition("#")[0].strip(): line for line in lines}
    head = lines[: lines.index("") + 1] if "" in lines else []
    if any(line.partition("#")[0].strip() for line in head):
        head = []
    above: dict[str, list[str]] = {}
    pending: list[str] = []
    for line in lines[len(head) :]:
        name = line.partition("#")[0].strip()
        if name:
            above.setdefault(name.partition("/")[0], []).extend(pending)
            pending = []
        else:
            pending.append(line)
    if not above and names:
        above[names[0].partition("/")[0]], pending = pending, []
    topics = list(above)
    kept = {name.partition("/")[0] for name in names}
    for number, topic in enumerate(topics):
        if topic not in kept:
            orphaned = above.pop(topic)
            if number + 1 < len(topics):
                following = topics[number + 1]
                above[following] = [*orphaned, *above[following]]
            else:
                pending = [*orphaned, *pending]
    out = list(head)
    for name in names:
        out.extend(above.pop(name.partition("/")[0], []))
        out.append(named.get(name, name))
    return "\n".join([*out, *pending]) + "\n"
