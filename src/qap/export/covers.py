"""qemu/covers: what each topic is, in a mail to those who review it."""

from collections.abc import Sequence
from dataclasses import dataclass

from qap.host.errors import UsageError
from qap.host.paths import Project

USERS = "What users see"
SECTIONS = (USERS, "How it was tested", "What is left out")


@dataclass(frozen=True)
class Cover:
    """A topic's cover letter.

    Attributes:
        title: its subject, without a prefix.
        sections: text by heading, in the order of the file.
    """

    title: str
    sections: dict[str, str]

    @property
    def letter(self) -> str:
        """The text of the mail: the subject, and the sections under their headings."""
        parts = [f"{name}\n{'-' * len(name)}\n\n{text}" for name, text in self.sections.items()]
        return "\n\n".join([self.title, *parts]) + "\n"


def cover(project: Project, topic: str) -> Cover:
    """The cover letter of a topic, from qemu/covers/TOPIC.md.

    Raises:
        UsageError: it is missing, or lacks its title or a section.
    """
    name = f"qemu/covers/{topic}.md"
    path = project.qemu / "covers" / f"{topic}.md"
    if not path.exists():
        raise UsageError(f"{name} is missing: every topic has a cover letter")
    head, *rest = path.read_text().split("\n## ")
    title = head.strip().removeprefix("# ")
    if not head.startswith("# ") or "\n" in title:
        raise UsageError(f"{name}: its first line is to be the title, and a section to follow")
    sections = {}
    for part in rest:
        heading, _, text = part.partition("\n")
        sections[heading.strip()] = text.strip()
    lacking = [heading for heading in SECTIONS if not sections.get(heading)]
    if lacking:
        raise UsageError(f"{name}: it has no “## {lacking[0]}”")
    return Cover(title, sections)


def covers(project: Project, topics: Sequence[str]) -> dict[str, Cover]:
    """The cover letters of these topics."""
    return {topic: cover(project, topic) for topic in topics}
