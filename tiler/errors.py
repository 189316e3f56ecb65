"""What can go wrong, as one tree; each error also is the builtin that people would expect.

::

    TilerError                  exit code 1
    ├── OptionError             2   ValueError        an option out of its range, or two that do not go together
    ├── InputError              3   ValueError        latents, image or weights that cannot be used
    │   ├── NonFiniteError      3   ValueError        they hold NaN or Inf
    │   ├── ModelOverflowError  3   ValueError        the model makes NaN or Inf of them
    │   ├── DamagedError        3   ValueError        their file is damaged, which may be seen only on the way: then 6
    │   ├── ChangedError        6   ValueError        it changed during the run
    │   └── AxesError           3   ValueError        the axes of an array are not those of a map
    │       └── AxesQuestion    3   ValueError        they can be read in several ways, and ``axes`` does not say which
    ├── OutputExistsError       4   FileExistsError   the output is there, half done, or being written by another run
    ├── RefusedError            5   RuntimeError      too little disk space or memory; nothing was begun
    ├── TileError               6   RuntimeError      a tile failed on the way; the cause is chained
    └── VerificationError       7   RuntimeError      the file does not hold what the latents decode to

    InputWarning                    UserWarning       input that can be used but looks wrong

A run that fails after work was done keeps it: the error then has a note that says how much
(``__notes__``), and ``resume=True`` goes on. OSError, for a full disk, and KeyboardInterrupt come as they are.

A message is one line: what is wrong, ``name=value`` with its unit, the rule, what to do. Where that is an option, the
message holds it as an ``Option``: it reads ``overwrite=True`` in Python, and ``--overwrite`` on the command line.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """An option that a message names, as it is called in Python."""

    name: str
    """Of the argument."""
    value: object = None
    """What to give for it; None where only the name is meant."""

    def __str__(self) -> str:
        value = json.dumps(self.value) if isinstance(self.value, str) else self.value
        return f"{self.name}={'' if value is None else value}"

    def __format__(self, how: str) -> str:
        """Return it as it stands in a text that becomes a message: that finds it again."""
        return f"\0{self.name}\0{json.dumps(self.value)}\0"


class Message(str):
    """A text that names options: as arguments of Python, unless somebody asks for it in other words.

    Args:
        parts: of the text, in order; ``f"Use {Option('force', True)}."`` is one.
    """

    parts: "tuple[str | Option, ...]"

    def __new__(cls, *parts: "str | Option | Message") -> "Message":
        """Put the parts together, those of messages among them too."""
        flat: list[str | Option] = []
        for part in parts:
            if isinstance(part, Message):
                flat.extend(part.parts)
                continue
            words, *named = re.split(r"\0(\w+)\0(.*?)\0", f"{part}")
            flat.append(words)
            for name, value, behind in zip(named[::3], named[1::3], named[2::3], strict=True):
                flat.extend((Option(name, json.loads(value)), behind))
        message = super().__new__(cls, "".join(map(str, flat)))
        message.parts = tuple(flat)
        return message

    def word(self, say: Callable[[Option], str]) -> str:
        """Return the text with each option in the words of ``say``."""
        return "".join(say(part) if isinstance(part, Option) else part for part in self.parts)

    @property
    def capitalised(self) -> "Message":
        """The text as the beginning of a line."""
        first, *others = self.parts
        return self if isinstance(first, Option) else Message(first[:1].upper() + first[1:], *others)


START_OVER = f"Start over with {Option('overwrite', True)} and without {Option('resume')}."
"""What to do about a half-done output that cannot be gone on with."""


class TilerError(Exception):
    """Base of everything that this package raises on purpose.

    Args:
        parts: of the message, in order.
    """

    exit_code = 1

    def __init__(self, *parts: str | Option) -> None:
        super().__init__(Message(*parts))


class OptionError(TilerError, ValueError):
    """An option is out of its range, or two options do not go together."""

    exit_code = 2


class InputError(TilerError, ValueError):
    """Latents, an image or weights cannot be used."""

    exit_code = 3


class NonFiniteError(InputError):
    """The input holds NaN or Inf; ``nonfinite="zero"`` reads them as 0, and goes on with what is finished."""

    remedy = Option("nonfinite", "zero")


class DamagedError(InputError):
    """A file is damaged; where that was found on the way, what is finished is kept, and the exit code is 6."""


class ChangedError(InputError):
    """The input is not what it was when the run began; nobody knows which tiles are of what, and nothing is kept."""

    exit_code = 6


class AxesError(InputError):
    """The axes of an array are not those of a map with so many channels, or not those that were said."""


class AxesQuestion(AxesError):
    """The axes of an array can be read in several ways, which the message names; ``axes`` says which is meant."""


class ModelOverflowError(InputError):
    """Values inside the model become NaN or Inf; a run that goes on would meet them again."""

    starts_over = True


class InputWarning(UserWarning):
    """Input that can be used but looks wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(Message(message))


class OutputExistsError(TilerError, FileExistsError):
    """The output exists, or is half done, and ``overwrite`` was not given; or another run is writing it."""

    exit_code = 4


class RefusedError(TilerError, RuntimeError):
    """Disk or memory are predicted to be too small, and ``force`` was not given."""

    exit_code = 5


class TileError(TilerError, RuntimeError):
    """A tile failed on the way; it is named, and the cause is chained."""

    exit_code = 6


class VerificationError(TilerError, RuntimeError):
    """The file that was written does not hold what the latents decode to; it is left for a closer look."""

    exit_code = 7
