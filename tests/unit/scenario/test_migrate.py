"""The second QEMU, to which a guest migrates."""

from pathlib import Path

import pytest

from qap.machine.guest.io_checks import HostData
from qap.scenario.behind import Behind
from qap.scenario.migrate import destination
from qap.scenario.scenario_spec import scenario_spec

from .test_scenario import a_scenario


def test_destination_has_what_was_plugged() -> None:
    """At the end of its command line, so that what has no address gets the same one."""
    one = a_scenario("vhost-user-rng-pci", plug="hot", migrate=True)
    host_data = HostData(Path("there"))
    source = scenario_spec(one, None, host_data, is_base=False)
    there = Behind(Path("there/backend2.sock"), (), lambda: None)
    spec = destination(one, source, there)
    assert spec.devices[-1]["chardev"] == "backend2"
    assert list(spec.devices[:-1]) == list(source.devices)
    assert spec.chardevs == ["socket,id=backend2,path=there/backend2.sock"]
    assert spec.extra[-2:] == ["-incoming", "defer"]


def test_cold_destination_has_its_own_back_end() -> None:
    one = a_scenario("vhost-user-rng-pci", migrate=True)
    source = scenario_spec(one, Path("x/backend1.sock"), HostData(Path("x")), is_base=False)
    spec = destination(one, source, Behind(Path("x/backend2.sock"), (), lambda: None))
    assert spec.chardevs == ["socket,id=backend2,path=x/backend2.sock"]
    assert [one.get("chardev") for one in spec.devices][-1] == "backend2"


@pytest.mark.parametrize("plug", ["cold", "hot"])
def test_destination_has_its_own_netdev(plug: str) -> None:
    one = a_scenario("vhost-user-net", plug=plug, migrate=True)
    here = Path("x/backend1.sock") if plug == "cold" else None
    source = scenario_spec(one, here, HostData(Path("x")), is_base=False)
    spec = destination(one, source, Behind(Path("x/backend2.sock"), (), lambda: None))
    netdevs = [word for word in spec.extra if word.startswith("vhost-user,")]
    assert [word.partition(",chardev=")[2] for word in netdevs] == ["backend2"]
