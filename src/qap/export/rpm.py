"""rpm/: patches, a %patchlist to include, and a spec that shows how."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from qap.export.covers import Cover
from qap.export.queue import Queue

LIST = "qap.patchlist"
SPEC = "qemu-qap.spec"
TEXT = """\
# How a spec of QEMU takes the queue: Source1, %%patchlist and %%autosetup.
# rpmbuild -bp applies it; there is nothing to build or install in this one.

Name:           qemu-qap
Epoch:          2
Version:        {version}
Release:        1.qap1%{{?dist}}
Summary:        QEMU with the patch queue of qemu-access-platform
License:        GPL-2.0-or-later
URL:            https://www.qemu.org/
Source0:        qemu-%{{version}}.tar.xz
Source1:        {list}
BuildRequires:  git-core

%patchlist
%include %{{_sourcedir}}/{list}

%description
{count} patches, in these topics:
{topics}

%prep
# git-am checks every line of context. Without git: %%autosetup -n ... -p1
%autosetup -n qemu-%{{version}} -S git_am

%changelog
* {day} {who} - 2:{version}-1.qap1
- Add the patch queue of qemu-access-platform
"""
PACKIT = f"""\
# https://packit.dev/docs/configuration
specfile_path: {SPEC}
upstream_package_name: qemu
downstream_package_name: qemu-qap
upstream_tag_template: v{{version}}
files_to_sync:
  - {SPEC}
  - {LIST}
  - src: "*.patch"
    dest: .
jobs:
  - job: copr_build
    trigger: pull_request
    targets:
      - fedora-stable-x86_64
"""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def write(queue: Queue, covers: Mapping[str, Cover], quilt: Path, folder: Path) -> None:
    """Write rpm/; rpmbuild's sources are one folder, so a topic is part of a patch's name.

    Args:
        quilt: the folder that has the patches by topic.
    """
    folder.mkdir()
    names = {one.name: f"qap-{one.name.replace('/', '-')}" for one in queue.commits}
    for name, flat in names.items():
        (folder / flat).write_bytes((quilt / name).read_bytes())
    (folder / LIST).write_text("".join(f"{flat}\n" for flat in names.values()))
    topics = (f"* {topic}: {covers[topic].title}" for topic in queue.topics)
    text = TEXT.format(
        version=queue.base.version,
        list=LIST,
        count=len(queue.commits),
        topics="\n".join(topics),
        day=_day(queue.date),
        who=queue.responsible,
    )
    (folder / SPEC).write_text(text)
    (folder / ".packit.yaml").write_text(PACKIT)


def _day(date: datetime) -> str:
    """A date as a spec's changelog has it, in English whatever the locale."""
    return f"{DAYS[date.weekday()]} {MONTHS[date.month - 1]} {date.day:02d} {date.year}"
