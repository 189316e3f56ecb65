"""Decode huge latents of diffusion models into huge images, tile by tile, exactly.

>>> import tiler
>>> tiler.decode("latents.npy", "image.tif", weights="taesd_decoder.safetensors")  # doctest: +SKIP

Importing this package is cheap; TensorFlow, dask and tifffile are loaded when they are used.
"""

import logging

from tiler.api import decode, decode_lazily, encode, preview, verify
from tiler.checks.verification import Verification
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
from tiler.formats.npy_file import Npy
from tiler.formats.picture_file import Jpeg, Png, WebP
from tiler.formats.tiff_file import Tiff
from tiler.formats.zarr_file import Zarr
from tiler.latents import Latents
from tiler.plan import Plan
from tiler.planning import plan_decode, plan_encode
from tiler.profile import Profile
from tiler.report import Report
from tiler.sources.source import Source
from tiler.window import Span, Window

logging.getLogger("tiler").addHandler(logging.NullHandler())

__all__ = [
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
    "plan_decode",
    "plan_encode",
    "preview",
    "verify",
]
