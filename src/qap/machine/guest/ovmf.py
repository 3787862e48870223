"""OVMF, as Debian's package has it."""

from enum import Enum
from pathlib import Path

from qap.host.errors import MissingError

FOLDER = Path("/usr/share/OVMF")


class Ovmf(Enum):
    """A build of OVMF; the value is what stands after OVMF_CODE and OVMF_VARS.

    The first phases of the 4 MiB image, SEC and PEI, have 32 bits. Debian 13 has only this one.
    """

    SMALL = ""
    LARGE = "_4M"

    @property
    def options(self) -> list[str]:
        """The flash of a machine that boots it; what it writes there is dropped at the end.

        Raises:
            MissingError: the build is not installed.
        """
        code, variables = (FOLDER / f"OVMF_{part}{self.value}.fd" for part in ("CODE", "VARS"))
        for path in (code, variables):
            if not path.exists():
                raise MissingError(f"{path} is missing: install a package ovmf that has it")
        flash = "if=pflash,format=raw"
        return [
            *("-drive", f"{flash},unit=0,readonly=on,file={code}"),
            *("-drive", f"{flash},unit=1,snapshot=on,file={variables}"),
        ]
