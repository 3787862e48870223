"""Which build the tests run against.

QAP_BUILD: fork (the default) or base. QAP_PROFILE: a build profile, lab unless set.
"""

import os

from qap.fork.build import Build
from qap.host.errors import unknown_name

VARIABLE = "QAP_BUILD"
PROFILE = "QAP_PROFILE"


def build_under_test() -> Build:
    """The build that the environment names.

    Raises:
        UsageError: QAP_BUILD or QAP_PROFILE names nothing.
    """
    name = os.environ.get(VARIABLE, "fork")
    if name not in ("fork", "base"):
        raise unknown_name(VARIABLE, name, ("fork", "base"))
    return Build(os.environ.get(PROFILE, "lab"), is_base=name == "base")
