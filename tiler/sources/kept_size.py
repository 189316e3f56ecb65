"""The size of an image, kept with its latents, which come in whole latent pixels.

An image whose sides are no multiples of the scale is continued before it is encoded. Its own size then stands in the
file of latents, ``image_size_px: 250x203`` (width and height) in the metadata of a ``.safetensors`` or a text chunk of
a PNG, and what they decode to is cropped to it.
"""

import re
from pathlib import Path

from tiler.errors import InputError
from tiler.sources.input_file import printable
from tiler.sources.metadata import read_texts

KEY = "image_size_px"


def note_size(height: int, width: int) -> dict[str, str]:
    """Return what the file is to say of the size of an image."""
    return {KEY: f"{width}x{height}"}


def tell_not_kept(size: tuple[int, int], whole: tuple[int, int], path: Path) -> str:
    """Return what is to be said where a file has no place for the size of an image; each (height, width)."""
    return (
        f"the image is {size[1]} × {size[0]} px, which {path.suffix} does not keep: it decodes to {whole[1]} × "
        f"{whole[0]} px; .safetensors and .png keep it"
    )


def read_size(path: Path, whole_px: tuple[int, int], scale: int) -> tuple[int, int] | None:
    """Return (height, width) of the image that a file keeps with its latents, px; None where it keeps none.

    Args:
        path: of the latents.
        whole_px: (height, width) of what they decode to.
        scale: image px per latent px.

    Raises:
        InputError: it is no size, or not that of an image which such latents are of.
    """
    text = read_texts(path).get(KEY)
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,9})x([1-9]\d{0,9})", text)
    size = (int(found[2]), int(found[1])) if found else (0, 0)
    if all(whole - scale < side <= whole for side, whole in zip(size, whole_px, strict=True)):
        return size
    raise InputError(
        f"The size that is kept with the latents does not fit them: path={path}, {KEY}={printable(text)}, but they "
        f"decode to {whole_px[1]}x{whole_px[0]}, of which the image may lack less than {scale} px a side. Correct it "
        "in the file's metadata, or save the latents without it."
    )
