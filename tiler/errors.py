"""What can go wrong, as one tree; each error also is the builtin that people would expect.

::

    TilerError                  exit code 1
    ├── OptionError             2   ValueError        an option out of its range, or two that do not go together
    ├── InputError              3   ValueError        latents, image or weights that cannot be used
    ├── OutputExistsError       4   FileExistsError   the output is there and may not be replaced
    └── TileError               6   RuntimeError      a tile failed on the way; the cause is chained

A message is one line: what is wrong, ``name=value`` with its unit, the rule, what to do.
"""


class TilerError(Exception):
    """Base of everything that this package raises on purpose."""

    exit_code = 1


class OptionError(TilerError, ValueError):
    """An option is out of its range, or two options do not go together."""

    exit_code = 2


class InputError(TilerError, ValueError):
    """Latents, an image or weights cannot be used."""

    exit_code = 3


class OutputExistsError(TilerError, FileExistsError):
    """The output exists and ``overwrite`` was not given."""

    exit_code = 4


class TileError(TilerError, RuntimeError):
    """A tile failed on the way; it is named, and the cause is chained."""

    exit_code = 6
