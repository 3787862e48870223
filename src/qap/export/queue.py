"""The queue as it is exported: commits on the base, in a repository that is thrown away."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path

from qap.export.sign_off import NOBODY, Person, signed
from qap.fork import base, series
from qap.fork.git import Git
from qap.fork.patch import Patch
from qap.host.errors import QapError, UsageError
from qap.host.paths import Project

# What names a test of this repository, or is for Debian.
OWN_TRAILERS = re.compile(r"^(?:Forwarded|Test): .*\n", re.M)
# author, address, date (RFC 2822), seconds, subject, body
FIELDS = "%an%x00%ae%x00%aD%x00%at%x00%s%x00%b"


@dataclass(frozen=True)
class Commit:
    """A patch of the queue as a commit.

    Attributes:
        name: the patch's name in qemu/series.
        mail: the commit as it is sent to QEMU: without the trailers that are of this repository.
        date: as in a mail.
        seconds: the same date, since 1970.
        body: the message without the subject, with its trailers.
    """

    name: str
    commit: str
    mail: str
    parent: str
    author: Person
    date: str
    seconds: int
    subject: str
    body: str

    @property
    def topic(self) -> str:
        return self.name.partition("/")[0]

    @property
    def file(self) -> str:
        """The patch's name in its topic's folder."""
        return self.name.partition("/")[2]

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """Key and value of each line of the last paragraph."""
        last = self.body.rstrip("\n").rpartition("\n\n")[2]
        pairs = [line.partition(": ") for line in last.split("\n")]
        return [(key, value.strip()) for key, found, value in pairs if found]

    def values(self, key: str) -> list[str]:
        """All values of a trailer."""
        return [value for name, value in self.trailers if name == key]


@dataclass(frozen=True)
class Queue:
    """The queue on its base.

    Attributes:
        git: a bare repository with a branch for each topic, as it is sent to QEMU.
        sender: who signs the patches off; None for nobody.
        date: of everything that needs one: SOURCE_DATE_EPOCH, or else the newest patch's.
    """

    project: Project
    base: base.BaseInfo
    git: Git
    commits: Sequence[Commit]
    sender: Person | None
    date: datetime

    @property
    def responsible(self) -> Person:
        """Whom an export names where it has to name somebody."""
        return self.sender or NOBODY

    @cached_property
    def topics(self) -> dict[str, Sequence[Commit]]:
        """Each topic's patches, in the queue's order.

        Raises:
            QapError: patches of a topic do not follow each other.
        """
        runs = [(name, list(run)) for name, run in groupby(self.commits, lambda one: one.topic)]
        found: dict[str, Sequence[Commit]] = {}
        for name, run in runs:
            if name in found:
                raise QapError(f"qemu/series: the patches of {name} do not follow each other")
            found[name] = run
        return found


def date(newest: int) -> datetime:
    """SOURCE_DATE_EPOCH (reproducible-builds.org), or else the newest patch's date.

    Args:
        newest: seconds since 1970.
    Raises:
        UsageError: SOURCE_DATE_EPOCH is no number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH") or str(newest)
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise UsageError(f"SOURCE_DATE_EPOCH={text!r}: not a number of seconds since 1970") from exc


@contextmanager
def opened(project: Project, sender: Person | None) -> Iterator[Queue]:
    """Make the queue's commits on the base; they are gone at the end.

    Raises:
        QapError: a patch does not apply, or there is none.
    """
    upstream = base.ensure(project)
    with tempfile.TemporaryDirectory(prefix="qap-export-") as scratch:
        folder = Path(scratch)
        git = Git(folder / "queue.git")
        stock = project.base_tree
        Git(stock)("clone", "-q", "--shared", "--bare", str(stock), str(git.root))
        commits = _commits(project, git, upstream.commit, sender, folder)
        if not commits:
            raise QapError("qemu/series names no patch: there is nothing to export")
        when = date(max(one.seconds for one in commits))
        queue = Queue(project, upstream, git, commits, sender, when)
        for topic, patches in queue.topics.items():
            git("update-ref", f"refs/heads/topic/{topic}", patches[-1].mail)
        yield queue


def _commits(
    project: Project, git: Git, parent: str, sender: Person | None, scratch: Path
) -> list[Commit]:
    index = scratch / "index"
    git("read-tree", parent, env={"GIT_INDEX_FILE": str(index)})
    made = []
    mail = parent
    for patch in series.patches(project):
        copy = scratch / "patch"
        copy.write_text(signed(patch.text, sender), "utf-8", "surrogateescape")
        commit = Patch(patch.name, copy).commit(git, parent, index)
        name, address, sent, seconds, subject, body = (
            git("log", "-1", f"--format={FIELDS}", commit).removesuffix("\n").split("\0")
        )
        author = Person(name, address)
        mail = _mail(git, commit, mail)
        made.append(
            Commit(patch.name, commit, mail, parent, author, sent, int(seconds), subject, body)
        )
        parent = commit
    return made


def _mail(git: Git, commit: str, parent: str) -> str:
    """The same commit on another parent, without trailers that say nothing to QEMU."""
    head, _, message = git("cat-file", "commit", commit).partition("\n\n")
    head = re.sub(r"^parent .*$", f"parent {parent}", head, flags=re.M)
    text, found, last = message.rstrip("\n").rpartition("\n\n")
    message = (text + found + OWN_TRAILERS.sub("", f"{last}\n")).rstrip("\n") + "\n"
    return git("hash-object", "-t", "commit", "-w", "--stdin", stdin=f"{head}\n\n{message}").strip()
