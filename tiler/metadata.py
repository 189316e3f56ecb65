"""What is said of a picture besides its pixels, on its way from one file to another: texts, and EXIF.

What describes how the pixels were stored is left behind: they are stored otherwise now. So are a thumbnail, which would
show what the picture was, and the orientation, which is applied.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tiler.fields import Fields

DESCRIPTIONS = ("Description", "Comment", "taesd-tiler")
"""Names in a PNG of how it was made: the first that what is taken along leaves free."""
PICTURE_TAGS = frozenset({269, 270, 271, 272, 306, 315, 316, 18246, 18249, 33432, *range(0x9C9B, 0x9CA0)})
"""Of EXIF's first directory what is said of a picture: document, description, make, model, date, artist, computer,
rating, copyright, and what Windows writes. Source: EXIF 2.3, 4.6.4."""
PHOTO_DIRECTORY, PLACE_DIRECTORY = 0x8769, 0x8825
LEFT_PHOTO_TAGS = frozenset({36864, 37121, 37396, 37500, 40960, 40961, 40962, 40963, 40965, 41492, 42240})
"""Of the directory of the photograph what is not taken along: versions, sizes, places in px, colours, and the maker's
notes, which nobody can read, and which point to places in the file."""
COMFY_TAGS = {"workflow": 271, "prompt": 272}
"""Where ComfyUI keeps its own in EXIF, each behind its name and a colon. Source: its node SaveAnimatedWEBP."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is said of a picture besides its pixels."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """By name."""
    exif: bytes = b""
    """EXIF, from its byte order on; empty where there is none."""
    left: tuple[str, ...] = ()
    """What there is besides, which is not taken along."""

    @property
    def names(self) -> tuple[str, ...]:
        """What there is, in words."""
        place = ("a place on earth",) if self.has_place else ()
        return (*self.texts, *(("EXIF",) if self.exif else ()), *place)

    @property
    def has_place(self) -> bool:
        """Whether it names a place on earth."""
        return bool(self.exif) and bool(_load(self.exif).get_ifd(PLACE_DIRECTORY))

    @property
    def size_bytes(self) -> int:
        """What it takes in a file, at most."""
        return 2 * (len(json.dumps(dict(self.texts))) + 8 * len(self.exif)) if self.names else 0

    @property
    def fields(self) -> Fields:
        """What tells it from others."""
        content = json.dumps([dict(self.texts), self.exif.hex()]).encode()
        return {"taken along": hashlib.sha256(content).hexdigest()[:16]}

    def add_to(self, description: str) -> str:
        """Return a description, a JSON object, with all of it as texts."""
        texts = {**self.texts, **(_spell_out(_load(self.exif)) if self.exif else {})}
        return json.dumps({**json.loads(description), "metadata": texts}) if texts else description

    def for_pictures(self) -> "tuple[Any, Metadata]":
        """Return the EXIF of a JPEG or WebP, as Pillow writes it, and what found no place in it."""
        exif = _select(_load(self.exif))
        rest = dict(self.texts)
        for name, tag in COMFY_TAGS.items():
            if name in rest and tag not in exif:
                exif[tag] = f"{name}:{rest.pop(name)}".encode()
        return exif, Metadata(rest)


def clean_exif(exif: Any) -> bytes:
    """Return what is to be taken along of what Pillow has read, from the byte order on; empty where that is nothing."""
    selected = _select(exif)
    return bytes(selected.tobytes()[6:]) if len(selected) else b""


def _select(exif: Any) -> Any:
    from PIL import Image

    cleaned = Image.Exif()
    for tag in PICTURE_TAGS & set(exif):
        cleaned[tag] = _keep_letters(exif[tag])
    photo, place = (
        {tag: _keep_letters(value) for tag, value in exif.get_ifd(directory).items() if tag not in left}
        for directory, left in ((PHOTO_DIRECTORY, LEFT_PHOTO_TAGS), (PLACE_DIRECTORY, ()))
    )
    for directory, found in ((PHOTO_DIRECTORY, photo), (PLACE_DIRECTORY, place)):
        if found:
            cleaned[directory] = found
    return cleaned


def _keep_letters(value: object) -> object:
    """Return text as the bytes that Pillow took for Latin-1: it writes a question mark for what is not ASCII."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def _load(content: bytes) -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif.load(content)
    return exif


def _spell_out(exif: Any) -> dict[str, str]:
    """Return EXIF as texts, by the names that the standard gives them."""
    from PIL.ExifTags import GPSTAGS, TAGS

    directories = [
        (TAGS, {tag: exif[tag] for tag in PICTURE_TAGS & set(exif)}),
        (TAGS, exif.get_ifd(PHOTO_DIRECTORY)),
        (GPSTAGS, exif.get_ifd(PLACE_DIRECTORY)),
    ]
    return {
        f"EXIF {names.get(tag, tag)}": _to_text(value)
        for names, found in directories
        for tag, value in sorted(found.items())
    }


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_to_text, value))
    if isinstance(value, bytes):
        text = value.rstrip(b"\0").decode("ascii", "replace")
        return text if text.isprintable() and "\ufffd" not in text else value.hex()
    if isinstance(value, str):
        try:
            return value.encode("latin-1").decode()
        except UnicodeError:
            return value
    return str(value)
