"""What people may give for an option: one table by name, asked by all public calls and by what is said of files.

A rule takes a name and a value, and returns the value as the rest of the house wants it: a whole number of NumPy
becomes Python's. Whether a number suits the image, or a word is known, is told by whoever knows that.
"""

import inspect
import math
import operator
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args

from tiler.dtypes import check_dtype
from tiler.errors import Option, OptionError
from tiler.region import find_window

Rule = Callable[[str, Any], Any]
P = ParamSpec("P")
R = TypeVar("R")

MOST = 2**62
"""Whole numbers beyond it mean nothing, and no index of Python's is larger."""
MOST_UPSCALE = 2**20
MOST_SAMPLES = 10**6
MOST_FILE_TILE_PX = 8192
"""As the largest tile that is chosen by itself: a tile of the file is never larger than one of work."""


def show(value: object) -> str:
    """Return a value as it may stand in a message: short, on one line."""
    text = str(value) if isinstance(value, int | float | str | os.PathLike) else repr(value)
    text = " ".join(text[:200].split())
    return text[:80] if text.isprintable() else ascii(text)[:80]


def whole(least: int = -MOST, most: int = MOST) -> Rule:
    """Return the rule of a whole number; a boolean is none, and 64.0 is none."""

    def check(name: str, value: Any) -> int:
        number = None
        # An array of one number would pass for that number.
        if not isinstance(value, bool) and not getattr(value, "shape", ()):
            with suppress(TypeError):
                number = operator.index(value)
        if number is None or not least <= number <= most:
            rule = "" if least == -MOST else f", {least} to {most:,}" if most < MOST else f", {least} or more"
            raise OptionError(f"Not a whole number that can be: {name}={show(value)}. Use a whole number{rule}.")
        return number

    return check


def or_none(rule: Rule) -> Rule:
    """Return the rule of an option that may be left out."""
    return lambda name, value: None if value is None else rule(name, value)


def flag(name: str, value: Any) -> bool:
    """Return a value that is true or false; "no" is neither."""
    # By its type: NumPy's own is another one.
    if type(value).__name__ not in ("bool", "bool_"):
        raise OptionError(f"Neither true nor false: {name}={show(value)}. Use True or False.")
    return bool(value)


def word(name: str, value: Any) -> str:
    """Return a word; which ones there are is known elsewhere."""
    if not isinstance(value, str):
        raise OptionError(f"Not a word: {name}={show(value)}. Use a string.")
    return str(value)


def number(name: str, value: Any) -> float:
    """Return a finite number."""
    try:
        if not isinstance(value, bool | str | bytes | bytearray) and math.isfinite(found := float(value)):
            return value if isinstance(value, int) else found
    except (TypeError, ValueError, OverflowError):
        pass
    raise OptionError(f"Not a number: {name}={show(value)}. Use a finite number.")


def path(name: str, value: Any) -> Any:
    """Return a path, as a text or a ``pathlib.Path``."""
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str) or "\0" in text:
        raise OptionError(f"Not a path: {name}={show(value)}. Use a string or a pathlib.Path.")
    return value


def path_or_file(name: str, value: Any) -> Any:
    """Return a path, or what says of a file what it is to be like."""
    return value if hasattr(value, "read_back") else path(name, value)


def region(name: str, value: Any) -> tuple[int, int, int, int]:
    """Return a region as whole numbers."""
    window = find_window(value)
    assert window is not None
    (height, width), rows, columns = window.shape, window.rows, window.columns
    return columns.start, rows.start, width, height


def samples(name: str, value: Any) -> Any:
    """Return a number of windows, or "all"."""
    if isinstance(value, str) and value == "all":
        return value
    try:
        return whole(0, MOST_SAMPLES)(name, value)
    except OptionError:
        raise OptionError(
            f'No such number of windows: {name}={show(value)}. Use 0 to {MOST_SAMPLES:,}, or "all".'
        ) from None


def seed(name: str, value: Any) -> int:
    """Return a seed."""
    try:
        return whole(0)(name, value)
    except OptionError:
        raise OptionError(f"No such seed: {name}={show(value)}. Use 0 or more.") from None


def upscale(name: str, value: Any) -> int:
    """Return a factor to upscale by."""
    try:
        return whole(1, MOST_UPSCALE)(name, value)
    except OptionError:
        raise OptionError(
            f"Not a factor to upscale by: {name}={show(value)}. Use a whole number, 1 to {MOST_UPSCALE:,}."
        ) from None


def file_tile(name: str, value: Any) -> int:
    """Return the side of a file's own tiles."""
    side_px = whole()(name, value)
    if not 16 <= side_px <= MOST_FILE_TILE_PX or side_px % 16:
        raise OptionError(
            f"A file cannot have such tiles: file tile={side_px} px. Use a multiple of 16 px, at most "
            f"{MOST_FILE_TILE_PX} px, that divides the tile: {Option('file_tile_px', 512)}, or leave it out."
        )
    return side_px


def quality(name: str, value: Any) -> int:
    """Return a quality of JPEG, WebP or JPEG XL."""
    try:
        return whole(1, 100)(name, value)
    except OptionError:
        raise OptionError(f"No such quality: {name}={show(value)}. Use a whole number, 1 to 100.") from None


def check_choice(name: str, value: object, choices: Any, *, of: str = "") -> None:
    """Refuse a word that is none of a ``Literal``.

    Raises:
        OptionError: it is none of them.
    """
    if value not in get_args(choices):
        whose = f" of {of}" if of else ""
        raise OptionError(f"No such {name}{whose}: {name}={show(value)}. Use {', '.join(get_args(choices))}.")


def with_a(attribute: str, what: str) -> Rule:
    """Return the rule of an object that has something."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, type) or not hasattr(value, attribute):
            raise OptionError(f"Not {what}: {name}={show(value)}. Give one, or leave it out.")
        return value

    return check


def anything(name: str, value: Any) -> Any:
    """Return what is looked at elsewhere: an array, a source, a path."""
    return value


RULES: dict[str, Rule] = {
    # of inputs
    "latents": anything,
    "image": anything,
    "data": anything,
    "weights": or_none(path),
    "key": or_none(word),
    "index": or_none(whole()),
    "axes": or_none(word),
    "page": or_none(whole()),
    "colour": or_none(word),
    "background": word,
    "space": or_none(word),
    "scale": or_none(number),
    "shift": or_none(number),
    "upscale": upscale,
    "wrap": or_none(word),
    "nonfinite": word,
    "channels": whole(1, 65_536),
    # of the run
    "region": or_none(region),
    "tile_size_px": or_none(whole()),
    "memory_bytes": or_none(whole(0)),
    "cache_bytes": whole(0),
    "workers": or_none(whole()),
    "size_px": whole(),
    "precision": word,
    "engine": or_none(word),
    "overwrite": flag,
    "resume": flag,
    "force": flag,
    "keep_metadata": flag,
    "verify": or_none(samples),
    "samples": samples,
    "seed": seed,
    "progress": or_none(with_a("__call__", "a function")),
    "profile": or_none(with_a("measure", "a tiler.Profile")),
    "client": or_none(with_a("scheduler_info", "a distributed.Client")),
    # of outputs
    "output": path_or_file,
    "path": path,
    "dtype": lambda name, value: check_dtype(value).name,
    "layout": or_none(word),
    "compression": word,
    "quality": or_none(quality),
    "file_tile_px": or_none(file_tile),
    "pyramid": flag,
    "dpi": or_none(number),
    "pixel_size_um": or_none(number),
}
"""By the name of the option; what has none here is looked at where it is used."""


def checked(**others: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: the arguments of a call are looked at by their names before anything is done.

    Args:
        others: rules of arguments that mean something else here.
    """

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(call)
        rules = {name: others.get(name, RULES.get(name, anything)) for name in signature.parameters}

        @wraps(call)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                bound.arguments[name] = rules[name](name, value)
            return call(*bound.args, **bound.kwargs)

        return run

    return decorate


def check_fields(said: Any) -> None:
    """Look at the fields of a frozen dataclass by their names, when one is made.

    Raises:
        OptionError: one is not what it may be.
    """
    for field in fields(said):
        value = getattr(said, field.name)
        object.__setattr__(said, field.name, RULES.get(field.name, anything)(field.name, value))
