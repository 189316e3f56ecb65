"""Decode huge latents of diffusion models into huge images, tile by tile, exactly.

>>> import tiler
>>> tiler.decode("latents.npy", "image.tif", weights="taesd_decoder.safetensors")  # doctest: +SKIP

Importing this package is cheap: what it offers is loaded when it is first used, and so are TensorFlow, dask and
tifffile.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiler.api import decode, decode_lazily, encode, open, preview, verify
    from tiler.checks.verification import Verification
    from tiler.decoded_image import DecodedImage
    from tiler.errors import (
        InputError,
        InputWarning,
        NonFiniteError,
        OptionError,
        OutputExistsError,
        RefusedError,
        TileError,
        TilerError,
        VerificationError,
    )
    from tiler.formats.jpeg_webp import Jpeg, WebP
    from tiler.formats.npy import Npy
    from tiler.formats.png import Png
    from tiler.formats.tiff import Tiff
    from tiler.formats.zarr import Zarr
    from tiler.latents import Latents
    from tiler.plan import Plan
    from tiler.planning import plan_decode, plan_encode
    from tiler.profile import Profile
    from tiler.report import Report
    from tiler.sources.source import Source
    from tiler.window import Span, Window

logging.getLogger("tiler").addHandler(logging.NullHandler())

__all__ = [
    "DecodedImage",
    "InputError",
    "InputWarning",
    "Jpeg",
    "Latents",
    "NonFiniteError",
    "Npy",
    "OptionError",
    "OutputExistsError",
    "Plan",
    "Png",
    "Profile",
    "RefusedError",
    "Report",
    "Source",
    "Span",
    "Tiff",
    "TileError",
    "TilerError",
    "Verification",
    "VerificationError",
    "WebP",
    "Window",
    "Zarr",
    "decode",
    "decode_lazily",
    "encode",
    "open",
    "plan_decode",
    "plan_encode",
    "preview",
    "verify",
]

_MODULES = {
    "tiler.api": "decode decode_lazily encode open preview verify",
    "tiler.checks.verification": "Verification",
    "tiler.decoded_image": "DecodedImage",
    "tiler.errors": "InputError InputWarning NonFiniteError OptionError OutputExistsError RefusedError TileError "
    "TilerError VerificationError",
    "tiler.formats.npy": "Npy",
    "tiler.formats.png": "Png",
    "tiler.formats.jpeg_webp": "Jpeg WebP",
    "tiler.formats.tiff": "Tiff",
    "tiler.formats.zarr": "Zarr",
    "tiler.latents": "Latents",
    "tiler.plan": "Plan",
    "tiler.planning": "plan_decode plan_encode",
    "tiler.profile": "Profile",
    "tiler.report": "Report",
    "tiler.sources.source": "Source",
    "tiler.window": "Span Window",
}
"""Where each name comes from, when it is first used: ``tiler --help`` needs none of them."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names.split():
            found = globals()[name] = getattr(import_module(module), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
