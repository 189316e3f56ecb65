"""What a job consists of, by names that people know: two that differ in none make the same file."""

Fields = dict[str, str | int | bool]
"""Names of what was given, and what it was."""
TILE_SIZE = "tile size, latent px"
"""The name of the tile size, a number, by which a run that goes on has the tiles of the one before."""


def find_difference(begun: Fields, now: Fields) -> str | None:
    """Return the first difference between two jobs in words, None where there is none."""
    for name in [*now, *begun]:
        before, after = begun.get(name), now.get(name)
        # Where NaN is an error, none was in what is finished.
        if before != after and (name, before) != ("nonfinite", "error"):
            return f"{name}, begun with {_show(before)}, now {_show(after)}"
    return None


def find_version() -> str:
    """Return the version of this software."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("taesd-tiler")
    except PackageNotFoundError:
        return "not installed"


def _show(value: object) -> str:
    return "nothing" if value is None else str(value)
