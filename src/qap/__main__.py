"""`python -m qap`: runs a verb and turns what goes wrong into one line and an exit code."""

import signal
import sys
from types import FrameType

from qap.host.errors import Exit, QapError


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that every process's owner ends it."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line; returns the exit code."""
    # A shell ignores SIGINT for what it puts in the background, and what we start would, too:
    # the frameworks that run the suites are ended by one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    import typer

    from qap.cli.main import app
    from qap.host.output import tolerate_closed_output

    tolerate_closed_output()

    argv = sys.argv[1:] or ["--help"]
    try:
        return int(app(argv, prog_name="./qap", standalone_mode=False) or Exit.OK)
    except QapError as exc:
        print(f"qap: {exc}", file=sys.stderr)
        for line in exc.detail.splitlines():
            print(f"  {line}", file=sys.stderr)
        return exc.code
    except (KeyboardInterrupt, typer.Abort):
        print("qap: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except typer.TyperException as exc:
        words = getattr(exc, "format_message", exc.__str__)()
        print(f"qap: {words} See ./qap --help.", file=sys.stderr)
        return Exit.USAGE
    except OSError as exc:
        print(f"qap: {exc}", file=sys.stderr)
        return Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
