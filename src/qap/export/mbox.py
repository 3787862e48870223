"""mbox/: for each topic a mailbox for git am, and its cover letter."""

from collections.abc import Mapping
from pathlib import Path

from qap.export.covers import Cover
from qap.export.queue import Queue
from qap.fork.patch import FORMAT

SECOND = "\nFrom 0000000"


def write(queue: Queue, covers: Mapping[str, Cover], folder: Path) -> None:
    """Write NN-TOPIC.mbox and NN-TOPIC.cover, numbered in the order in which they apply.

    git am refuses a mail without a patch, so the cover letter is a file of its own. It and the
    first patch name the base's commit and the patches that come before (git-format-patch(1),
    base tree information).
    """
    folder.mkdir()
    start = queue.base.commit
    for number, (topic, patches) in enumerate(queue.topics.items(), 1):
        branch = f"topic/{topic}"
        queue.git("config", f"branch.{branch}.description", covers[topic].letter)
        name = f"{number:02d}-{topic}"
        _mail(queue, folder / f"{name}.mbox", f"{start}..{branch}", "--no-cover-letter")
        letter = ("--cover-letter", "--cover-from-description=subject")
        _mail(queue, folder / f"{name}.cover", f"{start}..{branch}", *letter)
        start = patches[-1].mail


def _mail(queue: Queue, path: Path, commits: str, *options: str) -> None:
    who = {
        "GIT_COMMITTER_NAME": queue.responsible.name,
        "GIT_COMMITTER_EMAIL": queue.responsible.address,
        "GIT_COMMITTER_DATE": f"{queue.date.timestamp():.0f} +0000",
    }
    argv = [*FORMAT, "--encode-email-headers", "--numbered", f"--base={queue.base.commit}"]
    text = queue.git("format-patch", "--stdout", *argv, *options, commits, env=who)
    if "--cover-letter" in options:
        text = text.partition(SECOND)[0].rstrip("\n") + "\n"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def bundle(queue: Queue, path: Path) -> None:
    """Write a git bundle with a branch for each topic; it needs the base's commit."""
    branches = [f"refs/heads/topic/{topic}" for topic in queue.topics]
    # Threads share the search for deltas, and find others each time.
    argv = ["-c", "pack.threads=1", "bundle", "create", "-q", str(path)]
    queue.git(*argv, *branches, f"^{queue.base.commit}")
