"""How the command line fails: one line on standard error, and an exit code."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from tiler.errors import TilerError

_FAILED = 6
_INTERRUPTED = 130


class Failure(click.ClickException):
    """A message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class Group(click.Group):
    """A group whose every failure is one line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever it raises becomes a ``click.ClickException``."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            raise _explain(error) from error

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any
    ) -> NoReturn:
        """Run the command line and exit."""
        try:
            code = super().main(args, prog_name, **{**options, "standalone_mode": False})
        except click.ClickException as error:
            # No usage and no hint around it: one line.
            click.echo(f"tiler: {' '.join(error.format_message().split())}", err=True)
            code = error.exit_code
        except click.Abort:
            click.echo("tiler: interrupted", err=True)
            code = _INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> click.ClickException:
    """Return the message and exit code of an error."""
    if isinstance(error, TilerError):
        message, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        message, code = f"Out of memory ({error}). Use a smaller --tile-size or fewer --workers.", _FAILED
    elif isinstance(error, OSError):
        where = f": path={error.filename}" if error.filename else ""
        message, code = f"{error.strerror or error}{where}. Mend that and run again.", _FAILED
    else:
        message, code = f"Our mistake: {type(error).__name__}: {error}. Please report it, with what --debug says.", 1
    return Failure(message, code)
