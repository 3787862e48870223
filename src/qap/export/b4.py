"""b4/: makes a branch for b4 prep of each topic."""

from collections.abc import Mapping
from pathlib import Path

from qap.export.covers import Cover
from qap.export.queue import Queue

SCRIPT = """\
#!/bin/sh
# Makes a branch of each topic, which b4 prep knows. Run it in a git repository that has the
# base's commit, such as a clone of qemu/base.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
base={base}

die() {{
    echo "prepare: $*" >&2
    exit 1
}}

command -v b4 >/dev/null || die "b4 is missing: qap has it in .venv/bin, for PATH"
git cat-file -e "$base^{{commit}}" 2>/dev/null ||
    die "this repository lacks the base's commit $base: clone qemu/base"
for topic in {topics}; do
    ! git show-ref -q --verify "refs/heads/b4/$topic" || die "the branch b4/$topic is there already"
done

git fetch -q "$here/../queue.bundle" 'refs/heads/topic/*:refs/qap/*'
before=$base
for topic in {topics}; do
    git checkout -q -b "b4/$topic" "refs/qap/$topic"
    b4 prep --enroll "$before"
    GIT_EDITOR="cp '$here/$topic.cover'" b4 prep --edit-cover
    before=refs/qap/$topic
done
"""


def write(queue: Queue, covers: Mapping[str, Cover], folder: Path) -> None:
    """Write the script prepare, and the cover letters that it gives to b4."""
    folder.mkdir()
    for topic in queue.topics:
        (folder / f"{topic}.cover").write_text(covers[topic].letter)
    script = folder / "prepare"
    script.write_text(SCRIPT.format(base=queue.base.commit, topics=" ".join(queue.topics)))
    script.chmod(0o755)
