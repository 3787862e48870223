"""The base of the avocado tests: a scenario on the build under test, checked by the oracle."""

from collections.abc import Mapping

from avocado import Test

from qap.fork.build import Build
from qap.machine import catalog
from qap.scenario.observation import Observation
from qap.scenario.request import Request
from qap.scenario.run import problems
from qap.scenario.scenario import Scenario
from qap.scenario.trial import Trial


class GuestTest(Test):
    """Boots a guest, plugs a device and checks that it works, or is refused.

    :avocado: disable
    """

    timeout = 180

    def check(self, **fields: object) -> Observation:
        """Run a scenario and compare the result with the oracle; returns what was seen.

        A failure has what was expected, what was seen, the last lines of QEMU and guest, and
        the command to run it again.

        Args:
            fields: those of qap.scenario.scenario.Scenario.
        """
        return self._check(Build.under_test(), None, fields)

    def moves(self, here: Build, there: Build, **fields: object) -> None:
        """The same, for a guest that migrates to another build of QEMU and goes on there.

        No command of ./qap runs it again.
        """
        seen = self._check(here, there, {**fields, "migrate": True})
        self.assertTrue(seen.migrated, seen.migration_error)

    def _check(
        self, build: Build, elsewhere: Build | None, fields: Mapping[str, object]
    ) -> Observation:
        scenario = Scenario.model_validate({"name": self.name.name, **fields})
        binary = build.path(f"qemu-system-{catalog.guest(scenario.guest).qemu}")
        self.log.info("%s: %s with %s", scenario.title, build.name, binary)
        seen = Trial(scenario, build, elsewhere=elsewhere).run()
        self.log.info("%s in %.1f s: %s", seen.outcome, seen.seconds, "; ".join(seen.said))
        wrong = problems(scenario, seen, build.name)
        if wrong:
            again = f"again: {Request.of(scenario, build).command}"
            last = f"it moves from {build.name} to {elsewhere.name}" if elsewhere else again
            self.fail("\n".join([*wrong, seen.error, last]))
        return seen
