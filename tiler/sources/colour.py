"""The colours of a picture as sRGB."""

from pathlib import Path
from typing import Any

from tiler.errors import InputError


def to_srgb(
    image: Any, *, path: Path, format: str, colour: str | None = None, background: Any = None
) -> tuple[Any, list[str]]:
    """Return a picture of libvips in sRGB, and what is to be said of how it became that.

    Args:
        image: any number of bands, of uchar, ushort or float; nothing of it is read.
        path: the file, for messages.
        format: of the file, such as "PNG".
        colour: what its values are where it does not say so.
        background: what shows through where it is transparent.

    Returns:
        Three bands of uchar, ushort or float, without alpha.

    Raises:
        InputError: its colours cannot be told.
    """
    if image.hasalpha():
        image = image.extract_band(0, n=image.bands - 1)
    if image.bands not in (1, 3) or image.format not in ("uchar", "ushort", "float"):
        raise InputError(
            f"Colours that are not read: path={path}, bands={image.bands}, type={image.format}. Save it as RGB."
        )
    return (image.bandjoin([image, image]) if image.bands == 1 else image), []
