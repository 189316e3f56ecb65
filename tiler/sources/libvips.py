"""libvips, which decodes pictures: loaded when the first one is opened, and what it says when something is wrong.

Only what is named here is ever asked of it: it knows formats besides that are programs, or raw numbers of any file.
"""

import logging
import os
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tiler.errors import InputError
from tiler.sources.input_file import open_regular_file, printable

if TYPE_CHECKING:
    import pyvips

LOADERS = {"PNG": "pngload", "JPEG": "jpegload", "TIFF": "tiffload", "WebP": "webpload", "AVIF": "heifload"}
"""Of what is read by libvips, the operation that reads it."""


@cache
def load_vips() -> Any:
    """Return the module pyvips.

    Raises:
        InputError: it is not there, or not whole.
    """
    try:
        import pyvips
    except Exception as error:  # Without its library it raises a dozen kinds.
        raise InputError(
            f"Pictures are read by libvips, which cannot be loaded ({type(error).__name__}). "
            "Install it: pip install 'pyvips[binary]'."
        ) from error
    logging.getLogger("pyvips").addHandler(_heard)
    # It keeps the last hundred pictures by their names, open and with pixels, though their files may be others by then.
    pyvips.cache_set_max(0)
    return pyvips


def open_by_libvips(path: Path, format: str, access: Literal["sequential", "random"], **options: Any) -> "pyvips.Image":
    """Return a picture of which nothing but the header is read yet.

    Args:
        path: the file.
        format: what it is, one of ``LOADERS``.
        access: "sequential" where the pixels will be asked for once, from top to bottom.
        options: of the loader.

    Raises:
        InputError: it cannot be read.
    """
    pyvips = load_vips()
    descriptor = open_regular_file(path)
    try:
        # By its descriptor: a name may hold what libvips takes for options.
        source = pyvips.Source.new_from_descriptor(descriptor)
    finally:
        os.close(descriptor)
    _heard.forget()
    try:
        load = getattr(pyvips.Image, f"{LOADERS[format]}_source")
        return load(source, access=access, fail_on="warning", **options)
    except pyvips.Error as error:
        raise InputError(
            f"The {format} cannot be read: path={path} ({describe_error(error)}). It is damaged, or of a kind that is "
            "not read here. Save it again, as a PNG for instance."
        ) from error


def describe_error(error: BaseException) -> str:
    """Return what libvips said, on one line and not too long."""
    lines = [*str(getattr(error, "detail", error)).split("\n"), _heard.warning.removeprefix("VIPS: ")]
    return printable(" ".join(next((line for line in lines if line.strip()), "no reason given").split()))


class _Heard(logging.Handler):
    """Keeps what libvips warned of last: where a warning is an error, it is the reason, and the error has none."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    @property
    def warning(self) -> str:
        """The last in this thread."""
        return getattr(self._heard, "warning", "")

    def forget(self) -> None:
        """Begin anew."""
        self._heard.warning = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a warning."""
        self._heard.warning = record.getMessage()


_heard = _Heard()
