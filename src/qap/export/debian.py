"""debian/: turns Debian's source package into one with the queue."""

import textwrap
from collections.abc import Mapping
from email.utils import format_datetime
from pathlib import Path

from qap.export.covers import Cover
from qap.export.queue import Queue

SUFFIX = "+qap1"
WIDTH = 78
SCRIPT = """\
#!/bin/sh
# Adds the queue to Debian's source package of QEMU. Run it in the unpacked source.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
quilt=$here/../quilt
wanted='{version}'

die() {{
    echo "add-queue: $*" >&2
    exit 1
}}

[ -f debian/changelog ] && [ -f debian/patches/series ] ||
    die "there is no debian/patches/series: run this in the unpacked source package of QEMU"
version=$(dpkg-parsechangelog -S Version)
[ "$version" = "$wanted" ] ||
    die "the queue was exported for $wanted, and this is $version: export it on that base"
for topic in {topics}; do
    [ ! -e "debian/patches/$topic" ] || die "debian/patches/$topic is there already"
done

for topic in {topics}; do
    cp -R "$quilt/$topic" debian/patches/
done
cat "$quilt/series" >>debian/patches/series
{{ cat "$here/changelog" && cat debian/changelog; }} >debian/changelog.new
mv debian/changelog.new debian/changelog
echo "add-queue: {count} patches, $(dpkg-parsechangelog -S Version)"
"""


def write(queue: Queue, covers: Mapping[str, Cover], folder: Path) -> None:
    """Write the script add-queue, and the changelog's entry that it adds."""
    folder.mkdir()
    (folder / "changelog").write_text(changelog(queue, covers))
    script = folder / "add-queue"
    script.write_text(
        SCRIPT.format(
            version=queue.base.package_version,
            topics=" ".join(queue.topics),
            count=len(queue.commits),
        )
    )
    script.chmod(0o755)


def changelog(queue: Queue, covers: Mapping[str, Cover]) -> str:
    """The entry, as deb-changelog(5) has it."""
    version = f"{queue.base.package_version}{SUFFIX}"
    lines = ["  * Add the patch queue of qemu-access-platform:"]
    for topic, patches in queue.topics.items():
        many = f"{len(patches)} patch" + ("es" if len(patches) > 1 else "")
        text = f"- {topic} ({many}): {covers[topic].title}"
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 6, break_on_hyphens=False
        )
    head = f"qemu ({version}) UNRELEASED; urgency=medium"
    tail = f" -- {queue.responsible}  {format_datetime(queue.date)}"
    return "\n".join([head, "", *lines, "", tail, "", ""])
