"""The file of a preview: small, and there whole or not at all."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.errors import OptionError
from tiler.formats.places import check_output

PICTURE_KINDS = (".png", ".jpg", ".jpeg", ".webp")
"""What ``save_picture`` writes."""


def check_picture(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Refuse a picture that could not be written, before any work is done.

    Raises:
        OptionError: its name has another ending.
        OutputExistsError: it exists and ``overwrite`` is false.
        InputError: there is no such folder.
    """
    path = Path(path)
    if path.suffix.lower() not in PICTURE_KINDS:
        raise OptionError(f"No such kind of preview: path={path}. The name must end in {', '.join(PICTURE_KINDS)}.")
    check_output(path, overwrite=overwrite)
    return path


def save_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write (height, width, 3) pixels; the final name never exists half-written."""
    from PIL import Image

    with files.written_whole(path) as part:
        Image.fromarray(pixels).save(part)
