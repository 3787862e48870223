"""quilt/: series and patches with DEP-3 headers, in the very form of gbp pq export."""

from email.charset import Charset
from email.header import Header
from email.message import Message
from email.policy import Compat32
from pathlib import Path

from qap.export.queue import Commit, Queue
from qap.fork.git import Git

# What git-buildpackage asks of git diff: see gbp-pq(1), --abbrev.
ABBREVIATED = 7
STAT_WIDTH = 80
HEADER_WIDTH = 77
QUOTED = set(",.@()[]\\:;")


def write(queue: Queue, folder: Path) -> None:
    """Write quilt/series, and the patches beside it, a folder for each topic."""
    for one in queue.commits:
        path = folder / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(patch(queue.git, one))
    (folder / "series").write_text("".join(f"{one.name}\n" for one in queue.commits))


def patch(git: Git, one: Commit) -> bytes:
    """A commit as a patch: mail headers, the message, a diffstat and the diff."""
    argv = ["-c", f"core.abbrev={ABBREVIATED}", "diff", "-p", f"--stat={STAT_WIDTH}", "--summary"]
    argv += ["--no-ext-diff", "--text", "--no-renames", one.parent, one.commit]
    return _header(one) + b"---\n" + git(*argv).encode("utf-8", "surrogateescape")


def _header(one: Commit) -> bytes:
    # What is not ASCII in a header goes in the shortest of RFC 2047's encodings.
    name = one.author.name
    sender = Header(f'"{name}"' if QUOTED & set(name) else name, "us-ascii", header_name="from")
    sender.append(f"<{one.author.address}>")
    message: Message[Header, Header] = Message()
    message["From"] = sender
    message["Date"] = Header(one.date, "us-ascii", header_name="date")
    message["Subject"] = Header(one.subject, "us-ascii", header_name="subject")
    body = dep3(one)
    if body.isascii():
        message.set_payload(body.encode())
    else:
        charset = Charset("utf-8")
        charset.body_encoding = None  # type: ignore[assignment] # as is, says its documentation
        message.set_payload(body, charset)
    return message.as_bytes(unixfrom=False, policy=Compat32(max_line_length=HEADER_WIDTH))


def dep3(one: Commit) -> str:
    """The message, `Forwarded:` first among its trailers.

    DEP-3 lets a second set of fields begin at any paragraph; this way it begins with one of its
    own, and what else the paragraph has are fields that it doesn't know.
    """
    text, found, last = one.body.rstrip("\n").rpartition("\n\n")
    lines = last.split("\n")
    lines.sort(key=lambda line: not line.startswith("Forwarded: "))
    return text + found + "\n".join(lines) + "\n"
