"""configs/ and qemu/bases/: valid files become typed objects, errors are named."""

import pytest

from qap.fork import config
from qap.host import paths
from qap.host.errors import UsageError
from qap.machine import catalog

from ..project import PROFILE_TOML, Project, write

GUEST_TOML = """\
[x86_64]
qemu = "x86_64"
architecture = "amd64"
suites = ["trixie"]
kernel = "linux-image-amd64"
console = "ttyS0"
machine = "q35"
cpu = "max"
boot_silence = 60
"""


@pytest.fixture
def catalogue(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose guests are those of its own configs/."""
    monkeypatch.setattr(catalog, "data", lambda: project.configs)
    monkeypatch.setattr(catalog, "guests", catalog.guests.__wrapped__)
    return project


def test_profile_is_what_its_file_says(project: Project) -> None:
    small = config.profile(project, "small")
    assert small.name == "small"
    assert small.targets == ("x86_64-softmmu",)
    assert small.configure == ("--enable-tcg",)


def test_profile_adds_its_flags_to_those_it_inherits(project: Project) -> None:
    project.profile("asan", 'inherits = "small"\npurpose = "slow"\nconfigure = ["--enable-asan"]\n')
    asan, parent = config.profile(project, "asan"), config.profile(project, "small")
    assert (asan.name, asan.purpose) == ("asan", "slow")
    assert asan.configure == (*parent.configure, "--enable-asan")
    assert (asan.targets, asan.tools) == (parent.targets, parent.tools)


def test_unknown_key_names_file_and_key(project: Project) -> None:
    project.profile("odd", PROFILE_TOML + 'colour = "red"\n')
    with pytest.raises(UsageError, match=r"^configs/profiles/odd\.toml: colour: "):
        config.profile(project, "odd")


def test_missing_key_names_file_and_key(project: Project) -> None:
    project.profile("odd", PROFILE_TOML.replace("purpose", "# purpose"))
    with pytest.raises(UsageError, match=r"^configs/profiles/odd\.toml: purpose: .*required"):
        config.profile(project, "odd")


def test_wrong_type_names_file_and_key(catalogue: Project) -> None:
    write(catalogue.configs / "guests.toml", GUEST_TOML.replace("60", '"soon"'))
    with pytest.raises(UsageError, match=r"^configs/guests\.toml: x86_64.boot_silence: .*number"):
        catalog.guest("x86_64")


def test_bad_key_of_the_parent_is_blamed_on_the_parent(project: Project) -> None:
    project.profile("small", PROFILE_TOML + "oops = 1\n")
    project.profile("asan", 'inherits = "small"\n')
    with pytest.raises(UsageError, match=r"small\.toml: oops"):
        config.profile(project, "asan")


def test_file_that_is_not_toml_names_the_line(project: Project) -> None:
    project.profile("odd", "purpose =\n")
    with pytest.raises(UsageError, match=r"^configs/profiles/odd\.toml: .*line 1"):
        config.profile(project, "odd")


def test_missing_file_is_named(catalogue: Project) -> None:
    with pytest.raises(UsageError, match=r"^configs/guests\.toml is missing"):
        catalog.guest("x86_64")


def test_unknown_profile_names_the_nearest(project: Project) -> None:
    project.profile("sanitize", PROFILE_TOML)
    with pytest.raises(UsageError, match=r"unknown profile 'sanitise': did you mean sanitize\b"):
        config.profile(project, "sanitise")


def test_unknown_guest_names_the_nearest(catalogue: Project) -> None:
    write(catalogue.configs / "guests.toml", GUEST_TOML)
    assert catalog.guest("x86_64").memory == 512
    with pytest.raises(UsageError, match=r"unknown guest 'x86-64': did you mean x86_64\?"):
        catalog.guest("x86-64")


def test_name_like_no_other_lists_them_all(project: Project) -> None:
    project.profile("lab", PROFILE_TOML)
    with pytest.raises(UsageError, match=r"unknown profile 'qqq': valid: lab, small"):
        config.profile(project, "qqq")


def test_base_names_its_file(project: Project) -> None:
    write(project.base_toml, 'package = "qemu"\nsuites = 13\n')
    with pytest.raises(UsageError, match=r"^qemu/bases/10\.0\.toml: suites: "):
        config.base(project)


def test_every_profile_of_this_repository_is_right() -> None:
    project = paths.Project.here()
    assert config.profiles(project)
    for name in config.profiles(project):
        assert config.profile(project, name).purpose


def test_profiles_that_inherit_from_each_other_are_refused(project: Project) -> None:
    project.profile("one", 'inherits = "two"\n')
    project.profile("two", 'inherits = "one"\n')
    with pytest.raises(UsageError, match="inherits"):
        config.profile(project, "one")
