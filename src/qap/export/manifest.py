"""series.json: what each patch is, for programs."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from qap.export import qom
from qap.export.covers import USERS, Cover
from qap.export.maintainers import maintainers
from qap.export.properties import properties
from qap.export.queue import Commit, Queue
from qap.export.users import users
from qap.fork import config, series
from qap.host.paths import Project

SCHEMA = 1


def write(queue: Queue, covers: Mapping[str, Cover], folder: Path) -> None:
    """Write series.json; docs/json.md says what is in it. quilt/ has to be there already."""
    wanted = config.base(queue.project)
    changes = {
        topic: users(queue.project, topic, [one.subject for one in patches])
        for topic, patches in queue.topics.items()
    }
    upstream = queue.base
    where = _bases(queue.project)
    types = qom.names(queue.project.base_tree)
    document = {
        "schema": SCHEMA,
        "base": {
            "series": wanted.series,
            "qemu": upstream.version,
            "package": wanted.package if upstream.package_version else "",
            "package_version": upstream.package_version,
            "commit": upstream.commit,
        },
        "signed_off_by": str(queue.sender) if queue.sender else None,
        "topics": [
            {
                "topic": topic,
                "title": covers[topic].title,
                "users": covers[topic].sections[USERS],
                "patches": len(patches),
            }
            for topic, patches in queue.topics.items()
        ],
        "patches": [
            _patch(queue, one, changes[one.topic][one.subject], folder, where[one.name], types)
            for one in queue.commits
        ],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (folder / "series.json").write_text(text + "\n")


def _bases(project: Project) -> dict[str, list[str]]:
    """The bases that have a patch or a variant of it, by the patch's name."""
    found: dict[str, list[str]] = {}
    for name in project.all_series():
        for patch in series.patches(project.on(name)):
            found.setdefault(patch.name, []).append(name)
    return found


def _patch(
    queue: Queue,
    one: Commit,
    changes: str,
    folder: Path,
    bases: list[str],
    types: Mapping[str, str],
) -> dict[str, object]:
    file = folder / "quilt" / one.name
    diff = file.read_text("utf-8", "surrogateescape").partition("\n---\n")[2]
    text, _, _ = one.body.rstrip("\n").rpartition("\n\n")
    return {
        "patch": one.name,
        "topic": one.topic,
        "subject": one.subject,
        "users": changes,
        "changes": text,
        "properties": [
            {**asdict(each), "of": types.get(each.of, each.of)} for each in properties(diff)
        ],
        "forwarded": " ".join(one.values("Forwarded")),
        "fixes": one.values("Fixes"),
        "tests": one.values("Test"),
        "bases": bases,
        "maintainers": maintainers(queue.project.base_tree, file),
    }
