"""Who sends the patches: the sign-off that the queue itself does not have."""

import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.headerregistry import Address

from qap.fork.git import EMAIL, NAME
from qap.host.errors import UsageError

PLACEHOLDER = f"{NAME} <{EMAIL}>"
TRAILER = "Signed-off-by: "
FORM = re.compile(r'([^<>"\\]+?) <([^<>\s]+)>')
# Names that RFC 2606 and RFC 6761 keep for what does not exist.
RESERVED = ("invalid", "example", "test", "localhost")


@dataclass(frozen=True)
class Person:
    """A name and an address, as git writes them."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} <{self.address}>"


# The queue's author where nobody has signed off.
NOBODY = Person(NAME, EMAIL)


def person(text: str) -> Person:
    """A person from 'NAME <ADDRESS>'.

    Raises:
        UsageError: not of this form, or an address that can't be anybody's.
    """
    match = FORM.fullmatch(text)
    if match is None or not match[1].strip() or not match[1].isprintable():
        raise UsageError(f"--signed-off-by {text!r}: write it as 'NAME <ADDRESS>'")
    name, address = match[1].strip(), match[2]
    try:
        domain = Address(addr_spec=address).domain
    except (HeaderParseError, ValueError, IndexError) as exc:
        raise UsageError(f"--signed-off-by: {address!r} is not an address") from exc
    labels = domain.lower().split(".")
    if len(labels) < 2 or not all(labels):
        raise UsageError(f"--signed-off-by: {address!r} has no domain")
    if labels[-1] in RESERVED or labels[-2:-1] == ["example"]:
        raise UsageError(f"--signed-off-by: {address!r} can't be anybody's: {domain} is reserved")
    return Person(name, address)


def signed(text: str, sender: Person | None) -> str:
    """A patch as its sender's: author and sign-off in place of the queue's placeholder.

    Without a sender, the patch has no sign-off, so that it can't be taken for one that has been
    signed off by somebody.
    """
    head, found, rest = text.partition("\n---\n")
    lines = []
    for line in head.split("\n"):
        if line == f"{TRAILER}{PLACEHOLDER}":
            if sender is not None:
                lines.append(f"{TRAILER}{sender}")
        elif line == f"From: {PLACEHOLDER}":
            lines.append(f"From: {sender or PLACEHOLDER}")
        else:
            lines.append(line)
    return "\n".join(lines) + found + rest
