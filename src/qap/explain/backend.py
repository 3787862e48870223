"""What serves a device, and what it can do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from qap.explain.command import Command, Item
from qap.explain.device_types import VirtioType
from qap.explain.opts import Opts, boolean
from qap.host.errors import UsageError, unknown_name
from qap.machine.catalog import DeviceType
from qap.oracle import fence
from qap.oracle.features import FeatureBit

PROTOCOL = ("REPLY_ACK", "BACKEND_REQ")


class Kind(StrEnum):
    """Where a device is served."""

    QEMU = "in QEMU"
    KERNEL = "in the host's kernel"
    VDPA = "a vDPA device"
    PROGRAM = "a vhost-user program"


@dataclass(frozen=True)
class Told:
    """What somebody says that a back-end offers.

    Attributes:
        offers: ACCESS_PLATFORM.
        lacks: of what translation takes, as in `qap.oracle.fence.can_translate`.
        ring_packed: RING_PACKED.
    """

    offers: bool
    version_1: bool = True
    lacks: tuple[str, ...] = ()
    ring_packed: bool = False

    @property
    def can(self) -> bool:
        """Whether it can translate."""
        return fence.can_translate(offers=self.offers, lacks=self.lacks)


@dataclass(frozen=True)
class Backend:
    """What serves a device.

    Attributes:
        names: by which --backend calls it: the device's id, its chardev's, its socket.
        offers: ACCESS_PLATFORM; None if that is not known.
        can: it can translate; None if that is not known.
        why: how that is known, or how it can be.
    """

    kind: Kind
    names: tuple[str, ...]
    offers: bool | None
    can: bool | None
    version_1: bool
    why: str


def told(text: str) -> tuple[str, Told]:
    """`ID=FEATURES` as `explain --backend` takes it; FEATURES as `features` takes it.

    Raises:
        UsageError: it is something else.
    """
    name, equals, said = text.rpartition("=")
    if not (equals and name and said):
        raise UsageError(f"--backend {text}: expected ID=FEATURES, such as fs0=ACCESS_PLATFORM")
    return name, features(said)


def features(text: str) -> Told:
    """What a back-end offers, as people say it.

    Names joined by commas, or “none”, or the word that GET_FEATURES answers, such as
    0x170000000. A name with a minus before it says that it is missing: VERSION_1, REPLY_ACK and
    BACKEND_REQ are taken to be there otherwise.

    Raises:
        UsageError: it is something else.
    """
    if text[:1].isdigit():
        return of_word(text)
    words = [word for word in text.split(",") if word != "none"]
    known = {bit.name for bit in FeatureBit} | set(PROTOCOL)
    for word in words:
        if word.removeprefix("-") not in known:
            raise unknown_name("feature", word.removeprefix("-"), known)
    lacks = tuple(one for one in PROTOCOL if f"-{one}" in words)
    return Told(
        "ACCESS_PLATFORM" in words, "-VERSION_1" not in words, lacks, "RING_PACKED" in words
    )


def of_word(text: str) -> Told:
    """What a feature word says.

    Raises:
        UsageError: it is no number.
    """
    try:
        word = int(text, 0)
    except ValueError as exc:
        raise UsageError(f"--backend: {text} is no number") from exc
    return of_bits(word)


def of_bits(word: int, lacks: tuple[str, ...] = ()) -> Told:
    """What the answer to GET_FEATURES says."""
    bits = (FeatureBit.ACCESS_PLATFORM, FeatureBit.VERSION_1, FeatureBit.RING_PACKED)
    offers, version_1, ring_packed = (bool(word >> bit & 1) for bit in bits)
    return Told(offers, version_1, lacks, ring_packed)


def family_of(command: Command, item: Item, kind: VirtioType) -> tuple[DeviceType, Opts | None]:
    """The family of a device whose name several share, and the object between, if there is one.

    What its netdev or cryptodev names but the command line lacks is noted as not understood.
    """
    by_name = {family.name: family for family in kind.families}
    for key, table in (("netdev", command.netdevs), ("cryptodev", command.objects)):
        name = item.opts.get(key)
        if name and name not in table:
            command.left.append(f"{item.opts.get('driver')}: there is no -{key} {name}")
        if name in table and (found := by_name.get(_behind(table[name]))):
            return found, table[name]
    return kind.families[0], None


def _behind(between: Opts) -> str:
    """The family of catalogue devices that are behind such a netdev or cryptodev."""
    match between.get("type", "qom-type"):
        case "vhost-user":
            return "vhost-user-net"
        case "vhost-vdpa":
            return "vhost-net"
        case "cryptodev-vhost-user":
            return "vhost-user-crypto"
        case "tap" if any(
            (value := between.get(key)) and boolean(value) is not False
            for key in ("vhost", "vhostfd", "vhostfds", "vhostforce")
        ):
            return "vhost-net"
    return ""


def backend(
    command: Command, item: Item, kind: VirtioType, told_of: Mapping[str, Told]
) -> tuple[DeviceType, Backend]:
    """The family of a device and what serves it.

    Args:
        told_of: what is known of back-ends, by any of their names.
    """
    family, between = family_of(command, item, kind)
    names = tuple(_names(command, item, between))
    known = next((told_of[name] for name in names if name in told_of), None)
    is_vdpa = family.name == "vhost-vdpa-device" or (
        between is not None and between.get("type") == "vhost-vdpa"
    )
    if family.served_by == "in-qemu":
        return family, Backend(Kind.QEMU, names, True, True, True, "QEMU translates itself")
    where = Kind.VDPA if is_vdpa else Kind.KERNEL if family.kernel else Kind.PROGRAM
    if known:
        can = (
            known.offers if is_vdpa else fence.can_translate(offers=known.offers, lacks=known.lacks)
        )
        return family, Backend(where, names, known.offers, can, known.version_1, _said(known))
    if is_vdpa:
        return family, Backend(where, names, None, None, True, "only the device knows")
    if family.kernel:
        offers = family.kernel.access_platform
        why = "the kernel's offers ACCESS_PLATFORM" if offers else "the kernel's never offers it"
        return family, Backend(where, names, offers, offers, True, why)
    assert family.vhost_user is not None
    if family.vhost_user.program == "virtiofsd":
        return family, Backend(where, names, False, False, True, "virtiofsd never offers it")
    return family, Backend(where, names, None, None, True, "not told")


def _said(known: Told) -> str:
    """What was told, in words."""
    words = ["it offers ACCESS_PLATFORM" if known.offers else "it does not offer ACCESS_PLATFORM"]
    if known.offers and known.lacks:
        words.append(f"but lacks {' and '.join(known.lacks)}")
    if not known.version_1:
        words.append("nor VERSION_1" if not known.offers else "but not VERSION_1")
    return f"as told, {' '.join(words)}"


def _names(command: Command, item: Item, between: Opts | None) -> Iterator[str]:
    yield from filter(None, [item.id, item.opts.get("netdev"), item.opts.get("cryptodev")])
    chardev = item.opts.get("chardev") or (between.get("chardev") if between else "")
    if chardev:
        yield chardev
        if path := command.chardevs.get(chardev, Opts(())).get("path"):
            yield path
    if vdpa := item.opts.get("vhostdev") or (between.get("vhostdev") if between else ""):
        yield vdpa
