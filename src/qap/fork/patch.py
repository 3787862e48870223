"""A patch file of the queue: its parts, and how it becomes a commit."""

import re
import tempfile
from dataclasses import dataclass
from email.header import decode_header, make_header
from pathlib import Path

from qap.fork.git import Git, GitError
from qap.host.errors import QapError

HUNK = re.compile(r"^@@ -(\d+)")
FILE = re.compile(r"^diff --git a/(\S+) b/")
FAILED = re.compile(r"^error: patch failed: (.+):(\d+)$", re.MULTILINE)
NO_FILE = re.compile(r"^error: (\S+): (?:does not exist in index|already exists in index)", re.M)

FORMAT = (
    "--zero-commit",
    "--no-signature",
    "--full-index",
    "--no-numbered",
    "--no-renames",
    "--no-thread",
    "--unified=3",
    "--no-encode-email-headers",
)


def formatted(git: Git, commit: str) -> str:
    """A commit as a file of the queue, with a hash of zeros: it stays the same in a rebase."""
    return git("format-patch", "-1", "--stdout", *FORMAT, commit)


@dataclass(frozen=True)
class Patch:
    """A git-format patch.

    Args:
        name: its name in qemu/series, such as "fence/0001-virtio-bus-….patch".
        path: the file.
    """

    name: str
    path: Path

    @property
    def topic(self) -> str:
        return self.name.partition("/")[0]

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8", "surrogateescape")

    @property
    def diff(self) -> str:
        """The part after the message."""
        return self.text.partition("\n---\n")[2]

    @property
    def subject(self) -> str:
        match = re.search(r"^Subject: (?:\[PATCH\] )?(.*(?:\n .*)*)", self.text, re.MULTILINE)
        return str(make_header(decode_header(" ".join(match[1].split())))) if match else self.name

    def trailers(self, key: str) -> list[str]:
        """All values of a trailer of the message, such as `Test:`."""
        message = self.text.split("\n---\n", 1)[0]
        return re.findall(rf"^{key}: *(.+)$", message, re.MULTILINE)

    def hunk(self, file: str, line: int) -> int:
        """The number, from 1, of the hunk of `file` that starts at `line`; else of the last."""
        number, current = 0, ""
        for text in self.text.splitlines():
            if match := FILE.match(text):
                current, number = match[1], 0
            elif current == file and (match := HUNK.match(text)):
                number += 1
                if int(match[1]) == line:
                    return number
        return number

    def commit(self, git: Git, parent: str, index: Path) -> str:
        """Commit the patch on `parent` through a scratch index, touching no file.

        git apply checks every context line, so what patch(1) calls fuzz is an error
        here; an offset is not.

        Returns:
            The commit's hash: the same for the same patch and parent.
        Raises:
            QapError: names the patch, the file and the hunk that does not apply.
        """
        env = {"GIT_INDEX_FILE": str(index)}
        try:
            git("apply", "--cached", "--whitespace=nowarn", str(self.path), env=env)
        except GitError as exc:
            raise QapError(self._refusal(exc.detail), exc.detail) from exc
        tree = git("write-tree", env=env).strip()
        with tempfile.TemporaryDirectory() as scratch:
            body = Path(scratch) / "body"
            argv = ["mailinfo", "--encoding=UTF-8", str(body), str(Path(scratch) / "diff")]
            header = dict(
                line.split(": ", 1)
                for line in git(*argv, stdin=self.text).splitlines()
                if ": " in line
            )
            for name in ("Subject", "Author", "Email", "Date"):
                if name not in header:
                    raise QapError(f"patch {self.name} is not in git's format: it has no {name}")
            message = f"{header['Subject']}\n\n{body.read_text('utf-8', 'surrogateescape')}"
        who = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (
                ("NAME", header["Author"]),
                ("EMAIL", header["Email"]),
                ("DATE", header["Date"]),
            )
        }
        return git("commit-tree", tree, "-p", parent, stdin=message, env=who).strip()

    def _refusal(self, said: str) -> str:
        if match := FAILED.search(said):
            file, line = match[1], int(match[2])
            number = self.hunk(file, line)
            return f"patch {self.name} does not apply: {file}, hunk {number} (line {line})"
        if match := NO_FILE.search(said):
            return f"patch {self.name} does not apply: {match[1]}, hunk 1: {match[0][7:]}"
        first = said.splitlines()[0] if said else "git apply failed"
        return f"patch {self.name} does not apply: {first}"
