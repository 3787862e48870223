"""The kinds of confidential guests that x-confidential-sim simulates."""

from dataclasses import dataclass
from enum import StrEnum

BOUNCES_PCI = "dmesg | grep -qF 'PCI-DMA: Using software bounce buffering for IO (SWIOTLB)'"


class ConfidentialKind(StrEnum):
    """A kind of confidential guest."""

    SE = "se"
    SEV = "sev"
    SNP = "snp"
    TDX = "tdx"

    @property
    def traits(self) -> "Traits":
        return TRAITS[self]


@dataclass(frozen=True)
class Traits:
    """What a kind of confidential guest is made of.

    Attributes:
        title: with an article.
        mode: of the QEMU object.
        target: QEMU's, as in qemu-system-TARGET.
        guest: a name of configs/guests.toml, where no other is named.
        protected: a command that succeeds in a guest that takes itself for one.
        bounces: a command that succeeds in a guest that bounces its I/O.
        packaged: it boots the kernel as its package has it: QEMU tells no other of its pages.
    """

    title: str
    mode: str
    target: str
    guest: str
    protected: str
    bounces: str
    packaged: bool = False


TRAITS = {
    ConfidentialKind.SE: Traits(
        title="a Secure Execution guest",
        mode="secure-execution",
        target="s390x",
        guest="s390x",
        protected="grep -qx 1 /sys/firmware/uv/prot_virt_guest",
        bounces="dmesg | grep -q 'software IO TLB: mapped'",
    ),
    ConfidentialKind.SEV: Traits(
        title="an SEV guest",
        mode="sev",
        target="x86_64",
        guest="x86_64",
        protected="dmesg | grep -q 'Memory Encryption Features active: AMD SEV$'",
        bounces=BOUNCES_PCI,
    ),
    ConfidentialKind.SNP: Traits(
        title="an SEV-SNP guest",
        mode="snp",
        target="x86_64",
        guest="x86_64",
        protected="dmesg | grep -q 'Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP$'",
        bounces=BOUNCES_PCI,
        packaged=True,
    ),
    ConfidentialKind.TDX: Traits(
        title="a TDX guest",
        mode="tdx",
        target="x86_64",
        guest="x86_64",
        protected="dmesg | grep -q 'Memory Encryption Features active: Intel TDX'",
        bounces=BOUNCES_PCI,
    ),
}
