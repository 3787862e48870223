"""Who signs off what is sent."""

import re
from pathlib import Path

import pytest

from qap.export.folder import export
from qap.export.sign_off import PLACEHOLDER, Person, person, signed
from qap.fork import series
from qap.fork.git import EMAIL, Git
from qap.host import paths
from qap.host.errors import UsageError

from ..project import Project

# The repository's own queue; the fixtures make qap work on another one.
REAL = paths.Project.here()
SENDER = "Dr. Ünal Émile <emile@qemu-hackers.org>"


def everything(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.rglob("*.*") if path.suffix != ".bundle")


def test_queue_that_nobody_signed_has_no_sign_off(exported: Path) -> None:
    text = everything(exported)
    assert f"From: {PLACEHOLDER}" in text
    assert "Signed-off-by" not in text


def test_sender_is_author_and_signs_each_patch_once(queue: Project, tmp_path: Path) -> None:
    export(queue, tmp_path / "out", person(SENDER))
    stock = Git(tmp_path / "stock")
    Git(tmp_path)("clone", "-q", str(queue.base_tree), "stock")
    stock.init()
    for mailbox in sorted((tmp_path / "out/mbox").glob("*.mbox")):
        stock("am", "-q", str(mailbox))
    form = "%an <%ae>|%(trailers:key=Signed-off-by,valueonly,separator=%x2C)"
    shown = stock("log", "-4", f"--format={form}").splitlines()
    assert shown == [f"{SENDER}|{SENDER}"] * 4
    assert "qemu-access-platform.invalid" not in everything(tmp_path / "out")


def test_other_sign_offs_and_text_stay(queue: Project, tmp_path: Path) -> None:
    path = queue.patches / "fence/0002-pci-tell.patch"
    other = "Signed-off-by: A Person <a@person.org>"
    text = path.read_text().replace("Because.", f"Because of {PLACEHOLDER}.")
    path.write_text(text.replace("Test: tests", f"{other}\nTest: tests"))
    export(queue, tmp_path / "out", Person("Me", "me@mine.org"))
    head = (tmp_path / "out/quilt/fence/0002-pci-tell.patch").read_text().partition("\n---\n")[0]
    assert f"Because of {PLACEHOLDER}." in head
    assert re.findall("^Signed-off-by: .*", head, re.M) == [
        other,
        "Signed-off-by: Me <me@mine.org>",
    ]


def test_sender_maintains_what_is_new(queue: Project, tmp_path: Path) -> None:
    listed = ("MAINTAINERS", "", f"New thing\nM: {PLACEHOLDER}\n")
    queue.add_patch("ccw/0003-list.patch", "list", listed)
    more = ("MAINTAINERS", "New thing\n", "New thing\nS: Maintained\n")
    queue.add_patch("ccw/0004-more.patch", "more", more)
    with (queue.qemu / "users/ccw.toml").open("a") as file:
        file.write('list = "Nothing."\nmore = "Nothing."\n')
    export(queue, tmp_path / "out", Person("Me", "me@mine.org"))
    for name, line in (
        ("0003-list", "+M: Me <me@mine.org>"),
        ("0004-more", " M: Me <me@mine.org>"),
    ):
        assert line in (tmp_path / f"out/quilt/ccw/{name}.patch").read_text().splitlines()


def test_no_patch_of_the_queue_keeps_the_placeholder_once_it_is_sent() -> None:
    for patch in series.patches(REAL):
        text = signed(patch.text, Person("Me", "me@mine.org"))
        assert EMAIL not in text, patch.name
        assert text.count("\nSigned-off-by: Me <me@mine.org>\n") == 1, patch.name
        assert "Signed-off-by" not in signed(patch.text, None), patch.name


def test_person_has_a_name_and_an_address() -> None:
    assert person(SENDER) == Person("Dr. Ünal Émile", "emile@qemu-hackers.org")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "me",
        "me@mine.org",
        "<me@mine.org>",
        " <me@mine.org>",
        "Me me@mine.org",
        "Me <me@mine.org> more",
        "Me <me@mine.org",
        "Me <mine.org>",
        "Me <me@>",
        "Me <@mine.org>",
        "Me <me@mine>",
        "Me <me@mine..org>",
        "Me <me@@mine.org>",
        "Me <me me@mine.org>",
        "Me\nSigned-off-by: You <me@mine.org>",
        'M"e <me@mine.org>',
        "Me <me@localhost>",
        "Me <me@mine.example>",
        "Me <me@example.org>",
        PLACEHOLDER,
    ],
)
def test_what_is_not_an_address_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        person(text)
    assert str(refused.value).startswith("--signed-off-by")
    assert "\n" not in str(refused.value)
