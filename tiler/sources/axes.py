"""The letters of axes, as people and files write them.

B is a batch (or N), C channels, H rows (or Y), W columns (or X), T frames, S the sequence of packed latents.
"""

from collections.abc import Sequence

from tiler.errors import OptionError

_SYNONYMS = {"N": "B", "Y": "H", "X": "W"}
_NAMES = {
    "B": ("b", "batch", "n", "sample", "samples"),
    "C": ("c", "ch", "channel", "channels", "band", "bands", "feature", "features"),
    "T": ("t", "time", "frame", "frames"),
    "H": ("h", "y", "height", "row", "rows", "lat", "latitude", "northing"),
    "W": ("w", "x", "width", "col", "cols", "column", "columns", "lon", "longitude", "easting"),
}
"""What files call their axes."""


def parse_axes(text: str) -> str:
    """Return axes as people write them in the letters used here.

    Raises:
        OptionError: they are none.
    """
    letters = "".join(_SYNONYMS.get(each, each) for each in text.upper()) if isinstance(text, str) else ""
    found = set(letters)
    whole = set("CHW") <= found <= set("BCTHW") or set("CS") <= found <= set("BCS")
    if not whole or len(found) != len(letters):
        raise OptionError(
            f"No axes of an array: axes={str(text)[:40]}. A letter each, of B (batch), C (channels), H (rows), W "
            "(columns), T (frames), S (packed): BCHW, CHW, HWC, BHWC, BCTHW, BSC."
        )
    return letters


def name_axes(names: Sequence[object] | None) -> str | None:
    """Return the letters of axes by the names that a file gives them, "?" for unknown ones; None where all are."""
    found = {name: letter for letter, known in _NAMES.items() for name in known}
    letters = [found.get(str(name).lower(), "?") for name in names or ()]
    letters = [letter if letters.count(letter) == 1 else "?" for letter in letters]
    return "".join(letters) if set(letters) - {"?"} else None
