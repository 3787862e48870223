"""The nightly tests run only where a tag asks for them."""

import pytest
from typer.testing import CliRunner

from qap.cli.main import app
from qap.verify.test import filters, wants_nightly


@pytest.mark.parametrize(
    ("tags", "filtered", "nightly"),
    [
        ([], ["-nightly"], False),
        (["arch:s390x,-hotplug"], ["arch:s390x,-hotplug,-nightly"], False),
        (["nightly"], ["nightly"], True),
        (["-nightly"], ["-nightly"], False),
        (["hotplug", "nightly,endianness"], ["hotplug,-nightly", "nightly,endianness"], True),
    ],
)
def test_filters_leave_out_what_is_not_asked_for(
    tags: list[str], filtered: list[str], nightly: bool
) -> None:
    assert (filters(tags), wants_nightly(tags)) == (filtered, nightly)


@pytest.mark.parametrize("words", [["unit"], ["avocado", "lint"], ["--upstream"]])
def test_tag_is_for_avocado_alone(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["test", "--tag", "nightly", *words])
    assert done.exit_code != 0
    assert "beside it" in str(done.exception)
