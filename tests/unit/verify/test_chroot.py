"""The owner of a Debian system in a folder, with fake programs that make it."""

from pathlib import Path

import pytest

from qap.host.errors import QapError
from qap.verify.kit.chroot import Chroot

from ..programs import Programs
from ..project import Project

MIRROR = "http://mirror.example/debian/"
# What Chroot gives it up to "--" are options.
UNSHARE = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
MMDEBSTRAP = 'for word; do case $word in /*) mkdir "$word"; echo made >"$word/etc";; esac; done'
PROXY = 'Acquire::http::Proxy "http://proxy.example:3128"'


@pytest.fixture
def fakes(project: Project, programs: Programs) -> Programs:
    programs.add("unshare", UNSHARE)
    programs.add("mmdebstrap", MMDEBSTRAP)
    programs.add("apt-get", f"echo '{MIRROR} Debian Debian trixie'")
    programs.add("apt-config", f"echo 'Acquire \"\";'; echo '{PROXY};'")
    return programs


def left(project: Project) -> list[Path]:
    return list(project.qemu.glob(".unpack-*/root"))


def test_system_has_the_computers_mirror_and_proxy_and_ends_with_its_owner(
    fakes: Programs, project: Project, tmp_path: Path
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Chroot.made(project, tmp_path, "trixie", "--variant=apt") as system,
    ):
        assert system.inside("/etc").read_text() == "made\n"
        assert left(project) == [system.root]
        raise KeyboardInterrupt
    assert not left(project)
    (made,) = (call for call in fakes.calls() if call.startswith("mmdebstrap"))
    assert f"--aptopt={PROXY}" in made
    assert made.count(f"] {MIRROR} trixie main") == 2


def test_system_that_can_not_be_made_leaves_the_end_of_the_log_and_no_folder(
    fakes: Programs, project: Project, tmp_path: Path
) -> None:
    fakes.add("mmdebstrap", f"{MMDEBSTRAP}; echo E: no mirror >&2; exit 25")
    with (
        pytest.raises(QapError, match=r"mmdebstrap ended with status 25:\nE: no mirror"),
        Chroot.made(project, tmp_path, "trixie"),
    ):
        pass
    assert not left(project)


def test_folder_that_a_killed_owner_left_is_removed_by_the_next(
    fakes: Programs, project: Project, tmp_path: Path
) -> None:
    with Chroot.made(project, tmp_path, "trixie") as system:
        root = system.root
    root.mkdir()
    (root / "old").touch()
    with Chroot.made(project, tmp_path, "trixie") as system:
        assert system.root == root
        assert not system.inside("/old").exists()
