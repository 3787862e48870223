"""qemu/users: what each patch changes for users, in a sentence."""

from collections.abc import Sequence

from qap.fork import series
from qap.host.errors import UsageError
from qap.host.paths import Project
from qap.host.toml import read


def users(project: Project, topic: str, subjects: Sequence[str]) -> dict[str, str]:
    """The sentences of a topic's patches by their subjects, from qemu/users/TOPIC.toml.

    Args:
        subjects: of the patches that the project's base has; the file is about all.
    Raises:
        UsageError: the file is missing, lacks a patch or names one that no base has.
    """
    path = project.qemu / "users" / f"{topic}.toml"
    name = f"qemu/users/{topic}.toml"
    found = read(path)
    for subject in subjects:
        said = found.get(subject)
        if not isinstance(said, str) or not said:
            raise UsageError(f"{name}: it does not say what “{subject}” changes for users")
    known = {one.subject for one in series.shared(project) if one.topic == topic}
    for subject in found:
        if subject not in known:
            raise UsageError(f"{name}: no patch of {topic} is called “{subject}”")
    return {subject: found[subject] for subject in subjects}
