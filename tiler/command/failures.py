"""How the command line fails: one line on standard error, and an exit code."""

import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from tiler.command.interrupt import INTERRUPTED, stop_in_order
from tiler.errors import DamagedError, InputWarning, Message, Option, TilerError

_FAILED = 6


class Failure(click.ClickException):
    """A message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class Group(click.Group):
    """A group whose every failure is one line on standard error and an exit code."""

    _words: Sequence[str] = ()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever it raises becomes a ``click.ClickException``."""
        try:
            with stop_in_order(self._how_to_go_on()), warnings.catch_warnings():
                warnings.simplefilter("always", InputWarning)
                warnings.showwarning = self._show_warning  # type: ignore[assignment]
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Failure(self._add_how_to_go_on("interrupted.", error), INTERRUPTED) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            message, code = self._explain(error)
            if isinstance(error, DamagedError) and hasattr(error, "__notes__"):
                code = _FAILED
            raise Failure(self._add_how_to_go_on(message, error), code) from error

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any
    ) -> NoReturn:
        """Run the command line and exit."""
        self._words = list(sys.argv[1:] if args is None else args)
        _open_standard_streams()
        try:
            code = super().main(args, prog_name, **{**options, "standalone_mode": False})
        except click.ClickException as error:
            # No usage and no hint around it: one line.
            words = error.message if isinstance(error, Failure) else " ".join(error.format_message().split())
            click.echo(f"tiler: {words}", err=True)
            code = error.exit_code
        except click.Abort:
            click.echo("tiler: interrupted", err=True)
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)

    def say(self, text: object) -> str:
        """Return a text with the options that it names as they are called on the command line."""
        return text.word(self._say_option) if isinstance(text, Message) else str(text)

    def _say_option(self, option: Option) -> str:
        flag = next(
            (
                (each.secondary_opts or each.opts if option.value is False else each.opts)[0]
                for command in self.commands.values()
                for each in command.params
                if each.name == option.name and each.opts[0].startswith("--")
            ),
            f"--{option.name.replace('_', '-')}",
        )
        return flag if option.value is None or isinstance(option.value, bool) else f"{flag} {option.value}"

    def _how_to_go_on(self, remedy: Option | None = None) -> str:
        """Return the command that goes on with what this one has left."""
        resumes = {"decode", "encode"} & set(self._words) and "--resume" not in self._words
        # The remedies are none of a cluster's.
        words = _leave_out(self._words, "--scheduler") if remedy else self._words
        added = self._say_option(remedy).split() if remedy else []
        words = ["tiler", *words, *added, *(["--resume"] if resumes else [])]
        return f"Go on with: {shlex.join(words)}"

    def _add_how_to_go_on(self, message: str, error: BaseException) -> str:
        notes = getattr(error, "__notes__", [])
        # One line of it; but the spaces in a name are the name's.
        message = " ".join([*message.split(), *notes])
        goes_on = bool(notes) and not getattr(error, "starts_over", False)
        return f"{message} {self._how_to_go_on(getattr(error, 'remedy', None))}" if goes_on else message

    def _show_warning(self, message: Warning | str, category: type[Warning], *place: Any) -> None:
        # Where in the code it was raised is of no use to those who typed a command.
        click.echo(
            f"tiler: {self.say(*message.args)}"
            if isinstance(message, InputWarning)
            else f"{category.__name__}: {message}",
            err=True,
        )

    def _explain(self, error: Exception) -> tuple[str, int]:
        """Return the message and exit code of an error."""
        if isinstance(error, TilerError):
            return self.say(*error.args), error.exit_code
        if isinstance(error, MemoryError):
            return f"Out of memory ({error}). Use a smaller --tile-size or fewer --workers.", _FAILED
        if isinstance(error, OSError):
            where = f": path={error.filename}" if error.filename else ""
            return f"{error.strerror or error}{where}. Mend that and run again.", _FAILED
        return f"Our mistake: {type(error).__name__}: {error}. Please report it, with what --debug says.", 1


def _open_standard_streams() -> None:
    """Open what of input, output and error was closed: the next file would get its number, and what is said there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def _leave_out(words: Sequence[str], option: str) -> list[str]:
    """Return the words of a command line without an option and its value."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if option not in (before, word) and not word.startswith(f"{option}=")
    ]
