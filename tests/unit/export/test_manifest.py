"""series.json and sbom.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from qap.export.folder import export
from qap.export.sign_off import Person
from qap.export.users import users
from qap.fork import series
from qap.fork.git import Git
from qap.host.errors import QapError, UsageError
from qap.host.paths import Project as Here

from ..project import BASE_TOML, Project, write

SCRIPT = """\
open(my $patch, "<", $ARGV[-1]) or die "no patch";
print "$1's keeper <keeper\\@qemu.org>\\n" if join("", <$patch>) =~ m{^diff --git a/hw/(\\w+)}m;
print "qemu-devel\\@nongnu.org\\n";
"""


def manifest(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "series.json").read_text())
    return loaded


def test_each_patch_says_what_it_is(exported: Path) -> None:
    patches = manifest(exported)["patches"]
    assert [each["patch"] for each in patches] == (exported / "quilt/series").read_text().split()
    assert patches[1] == {
        "patch": "fence/0002-pci-tell.patch",
        "topic": "fence",
        "subject": "pci: tell",
        "users": "It tells.",
        "changes": "Because.",
        "properties": [],
        "forwarded": "no",
        "fixes": [],
        "tests": ["tests/none.py"],
        "bases": ["10.0"],
        "maintainers": [],
    }


def test_each_patch_says_which_bases_have_it(queue: Project, tmp_path: Path) -> None:
    text = BASE_TOML.replace('"10.0"', '"10.2"') + 'not_ported = ["ccw"]\n'
    write(queue.qemu / "bases/10.2.toml", text)
    export(queue, tmp_path / "out", None)
    bases = {each["topic"]: each["bases"] for each in manifest(tmp_path / "out")["patches"]}
    assert bases == {"fence": ["10.0", "10.2"], "ccw": ["10.0"]}


def test_topics_and_base_are_named(queue: Project, exported: Path) -> None:
    found = manifest(exported)
    assert found["base"]["commit"] == Git(queue.base_tree).head()
    assert found["base"]["series"] == "10.0"
    assert found["base"]["qemu"] == "10.0.99"
    assert found["signed_off_by"] is None
    assert found["topics"][1] == {
        "topic": "ccw",
        "title": "ccw: the letter about it",
        "users": "Lines of ccw are others.",
        "patches": 2,
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('"ccw: add a file" = "New."\n', "it does not say what “bus: more” changes for users"),
        ('"ccw: add a file" = "New."\n"bus: more" = ""\n', "it does not say what “bus: more”"),
        (
            '"ccw: add a file" = "New."\n"bus: more" = "More."\n"bus: less" = "Less."\n',
            "no patch of ccw is called “bus: less”",
        ),
        (None, "ccw.toml is missing"),
    ],
)
def test_what_users_notice_is_said_of_each_patch_and_of_no_other(
    queue: Project, tmp_path: Path, text: str | None, error: str
) -> None:
    file = queue.qemu / "users/ccw.toml"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(UsageError, match=error):
        export(queue, tmp_path / "out", None)


def test_maintainers_are_those_of_the_trees_own_script(queue: Project, tmp_path: Path) -> None:
    write(queue.base_tree / "scripts/get_maintainer.pl", SCRIPT)
    export(queue, tmp_path / "out", Person("Me", "me@mine.org"))
    found = manifest(tmp_path / "out")
    lists = [each["maintainers"] for each in found["patches"]]
    assert lists[1] == ["pci's keeper <keeper@qemu.org>", "qemu-devel@nongnu.org"]
    assert found["signed_off_by"] == "Me <me@mine.org>"


def test_script_that_fails_ends_the_export_with_its_words(queue: Project, tmp_path: Path) -> None:
    write(queue.base_tree / "scripts/get_maintainer.pl", 'die "no such option\\n";')
    with pytest.raises(QapError, match=r"get_maintainer.pl fails for 0001-bus-ask") as failed:
        export(queue, tmp_path / "out", None)
    assert failed.value.detail == "no such option"


def test_sbom_is_valid_cyclonedx(exported: Path) -> None:
    text = (exported / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_sbom_has_the_locked_packages_and_those_that_are_asked_for(exported: Path) -> None:
    bom = json.loads((exported / "sbom.json").read_text())
    assert [each["purl"] for each in bom["components"]] == [
        "pkg:pypi/foo-bar@1.0",
        "pkg:pypi/pydantic@2.14.3",
    ]
    root = bom["metadata"]["component"]["bom-ref"]
    asked = {each["ref"]: each.get("dependsOn") for each in bom["dependencies"]}
    assert asked[root] == ["pkg:pypi/foo-bar@1.0"]


def test_lock_that_locks_nothing_is_one_line(queue: Project, tmp_path: Path) -> None:
    write(queue.root / "requirements.lock", "pydantic>=2\n")
    with pytest.raises(UsageError, match="'pydantic>=2' is not NAME==VERSION"):
        export(queue, tmp_path / "out", None)


@pytest.mark.parametrize("base", Here.here().all_series())
def test_every_patch_of_the_queue_says_what_users_notice(base: str) -> None:
    here = Here.here(base)
    patches = series.patches(here)
    for topic in dict.fromkeys(patch.topic for patch in patches):
        subjects = [patch.subject for patch in patches if patch.topic == topic]
        assert list(users(here, topic, subjects)) == subjects
