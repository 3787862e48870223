"""The base of the avocado tests: a scenario on the build under test, held to the oracle."""

from avocado import Test

from qap.fork.build import Build
from qap.machine import catalog
from qap.scenario.run import problems
from qap.scenario.scenario import Scenario
from qap.scenario.trial import Trial


class GuestTest(Test):
    """Boots a guest, plugs a device into it and proves that it serves, or is refused.

    :avocado: disable
    """

    timeout = 180

    def check(self, **scenario: object) -> None:
        """Carry out a scenario (the fields of qap.scenario.scenario.Scenario) and compare.

        Fails with what was expected, what was seen, the last lines of QEMU and guest,
        and the command to run again.
        """
        build = Build.under_test()
        one = Scenario.model_validate({"name": self.name.name, **scenario})
        binary = build.path(f"qemu-system-{catalog.guest(one.guest).qemu}")
        self.log.info("%s: %s with %s", one.title, build.name, binary)
        seen = Trial(one, build).run()
        self.log.info("%s in %.1f s: %s", seen.outcome, seen.seconds, "; ".join(seen.said))
        wrong = problems(one, seen, build.name)
        if wrong:
            self.fail("\n".join([*wrong, seen.error, f"again: {one.repro(build.is_base)}"]))
