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


# A line of MAINTAINERS: changed, beside a change, or named where a hunk begins.
MAINTAINER = re.compile(rf"^([ +-]M: |@@ .* @@ M: ){re.escape(PLACEHOLDER)}$", re.M)

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
    """A patch as its sender's, who takes the place of the queue's placeholder.

    That is the author, the sign-off, and who maintains new files (M: in MAINTAINERS). Without a
    sender, the patch has no sign-off, so that it can't be taken for one that somebody signed off.
    """
    head, found, diff = text.partition("\n---\n")
    who = str(sender or PLACEHOLDER)
    lines = head.split("\n")
    if sender is None:
        lines = [line for line in lines if line != f"{TRAILER}{PLACEHOLDER}"]
    ours = {f"{key}{PLACEHOLDER}": f"{key}{who}" for key in ("From: ", TRAILER)}
    head = "\n".join(ours.get(line, line) for line in lines)
    return head + found + MAINTAINER.sub(lambda line: f"{line[1]}{who}", diff)
