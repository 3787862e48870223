"""`qap prove`: checks that the tests of each patch fail on the base and pass on the fork."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.markup import escape

from qap.fork import config, series
from qap.fork.build import Build
from qap.fork.patch import Patch
from qap.host.errors import QapError, UsageError, unknown_name
from qap.host.paths import Project, shown
from qap.host.report import Report, bad, good, table, unsure
from qap.verify import runners
from qap.verify.runners import EACH_CPU, FAIL, PASS, SKIP, TestResult

MISSING = "missing"
# Passes on the base, as the base's file says; and fails there, although it says so.
MENDED, NOT_MENDED = "mended", "not mended"
# Counts on what is not ported, as that file says; and passes on the fork, although it says so.
WAITING, NOT_WAITING = "waiting", "not waiting"
AVOCADO = "tests/avocado/"


@dataclass(frozen=True)
class Proof:
    """The results of a test that a patch names, on both builds.

    Attributes:
        patch: the patch's name in qemu/series.
        test: the test's name, as in the patch.
        base, fork: pass, fail, error, skip or missing; for a test with parameters, their
            common outcome, or “mixed”. On the base those that it has mended do not count, unless
            all are: “mended”, or “not mended” if one of them fails. Likewise those that wait for
            what is not ported: “waiting”, or on the fork “not waiting” if one of them passes.
        messages: those of the test on the base.
        fork_messages: those of the test on the fork.
    """

    patch: str
    test: str
    base: str
    fork: str
    messages: list[str] = field(default_factory=list)
    fork_messages: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        return self.base == FAIL and self.fork == PASS

    @property
    def untried(self) -> bool:
        """Whether it can't run here, such as for want of a build, and says why."""
        return self.base == self.fork == SKIP

    @property
    def mended(self) -> bool:
        """Whether the base does by itself what the test asks, and the fork still does."""
        return self.base == MENDED and self.fork == PASS

    @property
    def waiting(self) -> bool:
        """Whether it counts on what this base has not got yet."""
        return self.base == self.fork == WAITING

    @property
    def excused(self) -> bool:
        """Whether it need not prove its patch: another test has to."""
        return self.untried or self.mended or self.waiting


def prove(
    patches: Sequence[Patch], fork: Build, base: Build, seen: Iterable[TestResult] = ()
) -> Report:
    """Run the `Test:` trailers of patches on both builds.

    Args:
        seen: what tests did on the fork; those are not run there.

    The report is good if each test proves its patch, can't run here, or is mended or waiting as the
    base's file says, and each patch is proven by at least one.

    Raises:
        QapError: a patch names no test.
    """
    start = time.monotonic()
    tests = {patch.name: patch.trailers("Test") for patch in patches}
    for patch, listed in tests.items():
        if not listed:
            raise QapError(f"patch {patch} names no test: add a Test: trailer")
    wanted = list(dict.fromkeys(test for listed in tests.values() for test in listed))
    said = config.base(base.project)
    on_base, on_fork = _outcomes(wanted, base), _by_test(seen)
    on_fork |= _outcomes([test for test in wanted if test not in on_fork], fork)
    proofs = [
        Proof(
            patch,
            test,
            _on_base(on_base.get(test, []), said),
            _on_fork(on_fork.get(test, []), said),
            _messages(on_base.get(test, [])),
            _messages(on_fork.get(test, [])),
        )
        for patch, listed in tests.items()
        for test in listed
    ]
    seconds = time.monotonic() - start
    _print(proofs, seconds)
    ok = all(proof.proven or proof.excused for proof in proofs)
    ok &= {proof.patch for proof in proofs} == {proof.patch for proof in proofs if proof.proven}
    results = [{**asdict(proof), "proven": proof.proven} for proof in proofs]
    return Report("prove", ok, seconds, results)


def chosen(project: Project, names: Sequence[str]) -> list[Patch]:
    """The patches and topics of these names, such as fence or fence/0007; all if none is given.

    Raises:
        UsageError: no such patch or topic, or the base's file names a test that no patch has.
    """
    patches = series.patches(project)
    tests = {test for patch in patches for test in patch.trailers("Test")}
    said, where = config.base(project), shown(project.base_toml)
    for name, listed in (("mended", said.mended), ("waiting", said.waiting)):
        for test in listed:
            if test.partition("[")[0] not in tests:
                raise UsageError(f"{where}: {name}: no patch here names {test}")
    known = {patch.name: {patch.name, patch.topic, _numbered(patch.name)} for patch in patches}
    for name in names:
        if not any(name in said for said in known.values()):
            short = {text for said in known.values() for text in said if ".patch" not in text}
            raise unknown_name("patch or topic", name, short)
    return [patch for patch in patches if not names or known[patch.name] & set(names)]


def _outcomes(tests: Sequence[str], build: Build) -> dict[str, list[TestResult]]:
    """Results of each named test; a test with parameters has several."""
    if not tests:
        return {}
    Console(stderr=True).rule(f"on the {build.name}")
    guests = [test for test in tests if test.startswith(AVOCADO)]
    others = [test for test in tests if not test.startswith(AVOCADO)]
    results: list[TestResult] = []
    if others:
        each_cpu = EACH_CPU if build.is_base else 1
        results += runners.pytest(others, build, quiet=True, each_cpu=each_cpu)
    if guests:
        results += runners.avocado(guests, build, quiet=True)
    return _by_test(results)


def _by_test(results: Iterable[TestResult]) -> dict[str, list[TestResult]]:
    """Those of a test with parameters together."""
    found: dict[str, list[TestResult]] = defaultdict(list)
    for result in results:
        found[result.test.partition("[")[0]].append(result)
    return dict(found)


def _messages(results: Iterable[TestResult]) -> list[str]:
    return [result.message for result in results]


def _named(results: Iterable[TestResult], names: Collection[str]) -> list[TestResult]:
    """The results of tests that stand in a list, in full or without their parameters."""
    return [it for it in results if it.test in names or it.test.partition("[")[0] in names]


def _on_base(results: Sequence[TestResult], said: config.Base) -> str:
    """The common outcome on the base of those that its file does not except."""
    waiting = _named(results, said.waiting)
    results = [result for result in results if result not in waiting]
    if waiting and not results:
        return WAITING
    named = _named(results, said.mended)
    if any(result.status not in (PASS, SKIP) for result in named):
        return NOT_MENDED
    left = [result for result in results if result not in named or result.status == SKIP]
    return MENDED if named and not left else _shared(left)


def _on_fork(results: Sequence[TestResult], said: config.Base) -> str:
    """The same on the fork."""
    waiting = _named(results, said.waiting)
    if any(result.status == PASS for result in waiting):
        return NOT_WAITING
    left = [result for result in results if result not in waiting]
    return WAITING if waiting and not left else _shared(left)


def _shared(results: Iterable[TestResult]) -> str:
    statuses = {result.status for result in results}
    if not statuses:
        return MISSING
    return statuses.pop() if len(statuses) == 1 else "mixed"


def _print(proofs: Sequence[Proof], seconds: float) -> None:
    rows = []
    last = ""
    for proof in proofs:
        title = proof.patch if proof.patch != last else ""
        last = proof.patch
        wrong = unsure if proof.excused else bad
        base = good(proof.base) if proof.base == FAIL else wrong(proof.base)
        fork = good(proof.fork) if proof.fork == PASS else wrong(proof.fork)
        rows.append([escape(_numbered(title)), escape(_short(proof.test)), base, fork])
    columns = ["patch", "test", "base", "fork"]
    table(f"each test must fail on base and pass on the fork ({seconds:.0f} s)", columns, rows)
    for proof in proofs:
        if proof.untried or not (proof.proven or proof.excused):
            Console(soft_wrap=True).print(_unproven(proof))
    proven = {proof.patch for proof in proofs if proof.proven}
    excused = {proof.patch: proof for proof in proofs if proof.mended or proof.waiting}
    for patch, proof in excused.items():
        if patch not in proven:
            Console(soft_wrap=True).print(bad(f"not proven: {patch}: its tests are {proof.base}"))


def _unproven(proof: Proof) -> str:
    """Why a test does not prove its patch, with the messages of both builds."""
    if proof.untried:
        lines = [unsure(f"not tried: {proof.patch}: {proof.test}")]
    else:
        lines = [bad(f"not proven: {proof.patch}: {proof.test}")]
    for build, status, wanted, messages in (
        ("base", proof.base, FAIL, proof.messages),
        ("fork", proof.fork, PASS, proof.fork_messages),
    ):
        if status != wanted:
            lines.append(f"  {build}: {status} instead of {wanted}")
            lines += [f"    {escape(message)}" for message in dict.fromkeys(messages) if message]
    return "\n".join(lines)


def _numbered(patch: str) -> str:
    """A patch's topic and number: short enough to stand beside a test's name."""
    return patch.partition("-")[0]


def _short(test: str) -> str:
    return test.removeprefix("tests/")
