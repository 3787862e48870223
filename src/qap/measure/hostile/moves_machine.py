"""Moves from outside of the driver, with what is in flight: resets, unplug, link, IOMMU, clock."""

from random import Random

from qap.measure.hostile.driver import HostileDriver
from qap.measure.hostile.grammar import move
from qap.measure.hostile.moves_registers import begin
from qap.measure.hostile.moves_requests import fill
from qap.measure.hostile.moves_rings import bad_next, descriptor_loop, index_jump, next_everywhere


@move(1)
def system_reset(driver: HostileDriver, random: Random) -> None:
    """Reset the machine."""
    fill(driver, random)
    driver.outside("system-reset")
    if random.random() < 0.7:
        begin(driver, random)


@move(2)
def unplug(driver: HostileDriver, random: Random) -> None:
    """Unplug the device; a new one takes its place."""
    if random.random() < 0.7:
        fill(driver, random)
    driver.outside("unplug")
    if random.random() < 0.7:
        begin(driver, random)


@move(6, "virtio-net", "vhost-user-net")
def link(driver: HostileDriver, random: Random) -> None:
    """The link goes down, and perhaps up again; meanwhile rings are good or bad."""
    if random.random() < 0.5:
        begin(driver, random)
    driver.outside("link-down")
    random.choice((fill, next_everywhere, descriptor_loop, index_jump, bad_next))(driver, random)
    if random.random() < 0.5:
        driver.outside("link-up")


@move(2)
def bus_master(driver: HostileDriver, random: Random) -> None:
    """Take bus mastering or memory decoding from a PCI device, and perhaps give it back."""
    driver.outside("bus-master-off")
    if random.random() < 0.5:
        fill(driver, random)
    if random.random() < 0.8:
        driver.outside("bus-master-on")


@move(2)
def unmap(driver: HostileDriver, random: Random) -> None:
    """Take the mapping of an IOMMU away, with what is in flight, and perhaps give it back."""
    driver.outside("unmap")
    if random.random() < 0.7:
        fill(driver, random)
    if random.random() < 0.8:
        driver.outside("map")


@move(3)
def time_passes(driver: HostileDriver, random: Random) -> None:
    """Let timers run."""
    for _ in range(random.randint(1, 4)):
        driver.outside("clock")


@move(1)
def vm_stops(driver: HostileDriver, random: Random) -> None:
    """The VM is stopped and goes on."""
    driver.outside("stop")
    # A CPU that is stopped sends no channel program.
    if random.random() < 0.5 and not driver.target.transport.startswith("ccw"):
        fill(driver, random)
    driver.outside("cont")
