"""What a file says besides its values: texts by name, EXIF, and the size of the image that latents are of.

Latents come in whole latent pixels: an image whose sides are no multiples of the scale is continued before it is
encoded. Its own size then stands in the file of latents, ``image_size_px: 250x203`` (width and height) in the metadata
of a ``.safetensors`` or a text chunk of a PNG, and what they decode to is cropped to it.
"""

import base64
import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from taesd_core.file_kinds import BoundedFile, find_kind
from taesd_core.safetensors_file import SafetensorsError, read_metadata
from tiler.errors import InputError, Message, Option
from tiler.metadata import DESCRIPTIONS, Metadata, clean_exif
from tiler.sources.input_file import open_regular_file, printable
from tiler.sources.pillow_picture import pillow_limit
from tiler.sources.png_chunks import read_png_texts

logging.getLogger("PIL").addHandler(logging.NullHandler())  # What it warns of is checked here.
SIZE_KEY = "image_size_px"
"""Name of the size of the image among the texts of a file of latents."""
EXIF_NAME = "exif"
"""Name of EXIF among the texts of a ``.safetensors``, in base64."""
OF_THE_FILE = ("latent_space", SIZE_KEY, "colours", "format", "Software")
"""Texts that are said of the file itself."""
DESCRIPTION_TAG = 270
"""Where EXIF describes a picture."""
BY_PILLOW = {"jpeg": "JPEG", "tiff": "TIFF", "webp": "WEBP", "avif": "AVIF"}
"""What Pillow reads EXIF of: names of kinds of files, and Pillow's."""
OF_ANOTHER_FILE = ('{"shape"', "<?xml", "<OME", "ImageJ=")
"""How descriptions begin that only programs read, of how the file is stored: tifffile's, OME's and ImageJ's."""


def take_along(
    data: object, *, keep: bool, picture: bool = False, page: int | None = None
) -> tuple[Metadata | None, tuple[str, ...]]:
    """Return what is to be taken along of a file, and what is to be said of it.

    Args:
        data: a path; nothing else says anything besides its values.
        keep: whether it is asked for.
        picture: whether it is a file of a picture, or of latents.
        page: which of several pictures in it, from 0.

    Raises:
        InputError: the file cannot be opened.
    """
    found = read_all(Path(data), picture=picture, page=page) if isinstance(data, str | os.PathLike) else Metadata()
    names = ", ".join(map(printable, found.names[:6])) + (" …" if len(found.names) > 6 else "")
    if not keep:
        left = Message(f"the metadata of the input ({names}) are not taken along; {Option('keep_metadata', True)} does")
        return None, (left,) * bool(names)
    notes = []
    if found.has_place:
        notes.append("the metadata that are taken along name a place on earth (GPS)")
    if found.left:
        notes.append(f"of the metadata of the input these are not taken along: {', '.join(found.left)}")
    if not names:
        notes.append("the input has no metadata to take along")
    return found, tuple(notes)


def read_all(path: Path, *, picture: bool = False, page: int | None = None) -> Metadata:
    """Return what a file says besides its values, but for what is said of the file itself.

    Args:
        path: the file.
        picture: whether it is a file of a picture, or of latents.
        page: which of several pictures in it, from 0.

    Raises:
        InputError: the file cannot be opened.
    """
    kind, texts, raw, left = _read_raw(path)
    exif = b""
    if EXIF_NAME in texts:
        packed = texts.pop(EXIF_NAME)
        exif = _clean(lambda: _load(base64.b64decode(packed)), left)
    elif raw:
        exif = _clean(lambda: _load(raw), left)
    elif picture and kind in BY_PILLOW:
        exif = _read_by_pillow(path, page or 0, texts, left)
    for name in [*texts]:
        if name.startswith(("XML:com.adobe.xmp", "Raw profile type")):
            left.append(printable(name))
            del texts[name]
        elif name in OF_THE_FILE:
            del texts[name]
        elif not _is_text(name + texts[name]):
            left.append(printable(name))
            del texts[name]
    for name in DESCRIPTIONS:
        if name in texts:
            _open_description(texts.pop(name), texts, partial(texts.setdefault, name))
    return Metadata(texts, exif, tuple(left))


def read_texts(path: Path) -> dict[str, str]:
    """Return the texts of a ``.safetensors`` or PNG file by their names; of others none.

    Raises:
        InputError: the file cannot be opened.
    """
    return _read_raw(path)[1]


def _read_raw(path: Path) -> tuple[str, dict[str, str], bytes, list[str]]:
    if path.is_dir():
        return "", {}, b"", []
    with BoundedFile(open_regular_file(path), "rb") as file:
        kind = find_kind(file).name
        try:
            if kind == "png":
                return kind, *read_png_texts(file.fileno())
            return kind, read_metadata(file.fileno()) if kind == "safetensors" else {}, b"", []
        except SafetensorsError:
            return kind, {}, b"", []


def _read_by_pillow(path: Path, page: int, texts: dict[str, str], left: list[str]) -> bytes:
    """Return the EXIF of a JPEG, TIFF, WebP or AVIF; nothing is decoded."""
    from PIL import Image, UnidentifiedImageError

    def read() -> Any:
        # However large it is: only its header is read.
        pillows_own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(path, formats=[*BY_PILLOW.values()]) as image:
                image.seek(page)
                exif = image.getexif()
                # What lies in directories of its own is read when it is asked for, and the file closed by then.
                exif.get_ifd(0x8769), exif.get_ifd(0x8825)
                if comment := image.info.get("comment"):
                    texts["Comment"] = comment.decode("utf-8", "replace")
                left.extend(name for key, name in (("xmp", "XMP"), ("photoshop", "IPTC")) if key in image.info)
                if isinstance(exif.get(DESCRIPTION_TAG), str):
                    kept: list[str] = []
                    _open_description(exif[DESCRIPTION_TAG], texts, kept.append)
                    if not kept:
                        del exif[DESCRIPTION_TAG]
                return exif
        except UnidentifiedImageError:
            return Image.Exif()
        finally:
            Image.MAX_IMAGE_PIXELS = pillows_own

    with pillow_limit:
        return _clean(read, left)


def _open_description(description: str, texts: dict[str, str], keep: Callable[[str], object]) -> None:
    """Keep a description that is one of the picture; take out of ours what was taken along before."""
    if description.startswith(OF_ANOTHER_FILE):
        return
    try:
        said = json.loads(description)
    except (ValueError, RecursionError):
        said = None
    if not (isinstance(said, dict) and str(said.get("software", "")).startswith("taesd-tiler ")):
        keep(description)
    elif isinstance(said.get("metadata"), dict):
        for name, text in said["metadata"].items():
            texts.setdefault(name, str(text))


def _is_text(text: str) -> bool:
    """Tell whether it can be written: JSON may hold halves of letters."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _load(content: bytes) -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif.load(content)
    return exif


def _clean(read: Callable[[], Any], left: list[str]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return clean_exif(read())
        except MemoryError:
            raise
        except Exception:  # Pillow raises a dozen kinds for damaged EXIF.
            left.append("EXIF, which is damaged")
            return b""


def note_size(height: int, width: int) -> dict[str, str]:
    """Return what the file is to say of the size of an image."""
    return {SIZE_KEY: f"{width}x{height}"}


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
    text = read_texts(path).get(SIZE_KEY)
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,9})x([1-9]\d{0,9})", text)
    size = (int(found[2]), int(found[1])) if found else (0, 0)
    if all(whole - scale < side <= whole for side, whole in zip(size, whole_px, strict=True)):
        return size
    raise InputError(
        f"The size that is kept with the latents does not fit them: path={path}, {SIZE_KEY}={printable(text)}, but "
        f"they decode to {whole_px[1]}x{whole_px[0]}, of which the image may lack less than {scale} px a side. Correct "
        "it in the file's metadata, or save the latents without it."
    )
