"""Machines with a simulated confidential guest, and what such a guest boots."""

from typing import get_args

import pytest

from qap.machine import catalog
from qap.machine.guest.boot import Boot
from qap.machine.spec import Spec
from qap.measure.confidential import GUESTS, ConfidentialGuest
from qap.scenario.confidential import bounced, simulated
from qap.scenario.confidential_kind import ConfidentialKind
from qap.scenario.request import Request
from qap.scenario.scenario import Scenario

PACKAGED = {ConfidentialKind.SNP}


def a_spec(packaged: bool = False) -> Spec:
    return Spec("q35", boot=Boot(catalog.guest("x86_64"), packaged=packaged))


@pytest.mark.parametrize("kind", ConfidentialKind)
def test_kernel_is_the_packaged_one_where_qemu_takes_no_other(kind: ConfidentialKind) -> None:
    boot = simulated(a_spec(), kind).boot
    assert boot == a_spec(packaged=kind in PACKAGED).boot


@pytest.mark.parametrize("kind", ConfidentialKind)
def test_packaged_kernel_stays_one(kind: ConfidentialKind) -> None:
    assert simulated(a_spec(packaged=True), kind).boot == a_spec(packaged=True).boot


def test_machine_needs_no_guest() -> None:
    spec = simulated(Spec("q35"), ConfidentialKind.SNP)
    assert spec.boot is None
    assert spec.extra[:2] == ["-object", "x-confidential-sim,id=cg0,mode=snp,on-violation=error"]


def test_base_boots_the_usual_kernel() -> None:
    """It has no simulation, so that any kernel boots there."""
    boot = bounced(a_spec()).boot
    assert boot is not None
    assert not boot.packaged


@pytest.mark.parametrize("kind", ConfidentialKind)
def test_kind_can_be_asked_for(kind: ConfidentialKind) -> None:
    known = {
        word
        for choice in get_args(Request.model_fields["confidential"].annotation)
        for word in get_args(choice)
    }
    assert known == {str(one) for one in ConfidentialKind}
    guest = kind.traits.guest
    one = Scenario(guest=guest, device="virtio-rng", plug="cold", confidential=kind)
    assert kind.traits.title in one.title


def test_each_kind_is_measured() -> None:
    assert {guest.kind for guest in GUESTS} == set(ConfidentialKind)


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
def test_guests_that_are_compared_boot_the_same_kernel(guest: ConfidentialGuest) -> None:
    booted = [guest.spec(protected).boot for protected in (True, False)]
    assert [boot.packaged for boot in booted if boot] == [guest.kind in PACKAGED] * 2
