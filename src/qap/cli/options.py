"""Options that many verbs of ./qap have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from qap.host.errors import UsageError
from qap.host.paths import Project

Profile = Annotated[str, typer.Option("--profile", help="A build profile of configs/profiles/.")]
BaseSeries = Annotated[
    str | None,
    typer.Option(
        metavar="SERIES",
        help="The upstream that the patches are on, a name in qemu/bases/; "
        "QAP_BASE_SERIES, or 10.0, without it.",
    ),
]
Machine = Annotated[str | None, typer.Option("--machine", help="A machine type, such as q35.")]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="A device type, such as vhost-user-fs-pci.")
]
ViommuName = Annotated[str, typer.Option("--viommu", help="A vIOMMU of configs/viommus.toml.")]
Confidential = Annotated[
    Literal["se", "sev", "snp", "tdx"] | None,
    typer.Option(
        "--confidential",
        help="A simulated Secure Execution (s390x), SEV, SEV-SNP or TDX (x86_64) guest.",
    ),
]
GuestName = Annotated[str | None, typer.Option("--guest", help="A guest of configs/guests.toml.")]
Base = Annotated[bool, typer.Option("--base", help="The unpatched upstream, not the fork.")]


def writable(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Check before the work starts that its results can be written.

    The project's own folder for results is made if it is not there, but no other one.
    """
    if path is not None:
        try:
            if path.parent.resolve() == Project.here().root / "results":
                path.parent.mkdir(exist_ok=True)
            path.open("a").close()
        except OSError as exc:
            raise UsageError(f"{param.opts[0]} {path}: {exc.strerror}") from exc
    return path


Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the results here, as JSON.", callback=writable),
]
