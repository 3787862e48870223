"""Boots confidential guests many times; not part of the suite.

QAP_BOOTS=100 .venv/bin/avocado run tests/soak
"""

import os
from collections import Counter

from qap.machine.guest.ovmf import Ovmf
from qap.scenario import confidential
from qap.scenario.confidential import Shared
from qap.scenario.confidential_kind import ConfidentialKind
from qap.verify.kit.confidential_test import BLOCK_MODULES, ConfidentialTest

BOOTS = int(os.environ.get("QAP_BOOTS", "100"))
# Firmware takes long.
BOOTS_BY_OVMF = max(1, BOOTS // 5)


class ConfidentialBoots(ConfidentialTest):
    """Each guest boots protected and uses its disk, without a violation.

    Linux shares the same number of pages each time.

    :avocado: enable
    :avocado: tags=confidential
    """

    timeout = 60 * BOOTS

    def test_se(self) -> None:
        """:avocado: tags=arch:s390x"""
        self.boots(ConfidentialKind.SE)

    def test_sev(self) -> None:
        """:avocado: tags=arch:x86_64"""
        self.boots(ConfidentialKind.SEV)

    def test_sev_by_ovmf(self) -> None:
        """:avocado: tags=arch:x86_64,firmware:ovmf"""
        self.firmware = Ovmf.LARGE.options
        self.boots(ConfidentialKind.SEV, BOOTS_BY_OVMF)

    def test_snp(self) -> None:
        """:avocado: tags=arch:x86_64"""
        self.boots(ConfidentialKind.SNP)

    def test_tdx(self) -> None:
        """:avocado: tags=arch:x86_64"""
        self.boots(ConfidentialKind.TDX)

    def boots(self, kind: ConfidentialKind, times: int = BOOTS) -> None:
        """Boot guests, one after the other."""
        self.kind, self.guest = kind, kind.traits.guest
        disk, blockdevs = self.disk
        counts: Counter[int] = Counter()
        for _ in range(times):
            with self.booted([disk], BLOCK_MODULES, cpus=2, blockdevs=blockdevs) as machine:
                self.prove_disk(machine)
                confidential.prove(machine, kind)
                counts[Shared.of(machine).shared] += 1
        self.log.info("pages shared, and how often: %s", sorted(counts.items()))
        self.assertEqual(len(counts), 1)
