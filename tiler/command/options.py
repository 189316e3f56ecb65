"""The options of the command line: what each is called, and what the help says of it.

Options that describe one thing come as a group, and the command gets that thing.
"""

import math
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_WEIGHTS_HELP = (
    'A file of TAESD weights (.safetensors, .pth, .h5), or a name such as "taesd": see tiler weights list. "photo" are '
    "weights of this project's own, for a trial; photo is not Stable Diffusion compatible: it decodes only what it has "
    "encoded.  [default: what the variable TAESD_TILER_WEIGHTS names, a file or a folder]"
)


def _read_samples(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "all":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f'{value!r} is no number of windows. Use 0 or more, or "all".')
    return int(value)


def _option(*names: str, **attributes: Any) -> Decorator:
    return click.option(*names, show_default=True, **attributes)


def _number(*names: str, metavar: str, **attributes: Any) -> Decorator:
    return _option(*names, metavar=metavar, type=int, **attributes)


def _parse_tile_size(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither auto nor a number of px.") from None


def _parse_memory(context: click.Context, parameter: click.Parameter, value: float | None) -> int | None:
    if value is None:
        return None
    if not math.isfinite(value * 2**30):
        raise click.BadParameter(f"{value} is no number of GiB.")
    return int(value * 2**30)


def _group(name: str, make: Callable[..., Any], members: dict[str, Decorator]) -> Decorator:
    """Return options whose values the command gets as one: ``name``, made of them."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            made = make(**{member: values.pop(member) for member in members})
            command(**values, **{name: made})

        decorated: Callable[..., None] = run
        for option in reversed(members.values()):
            decorated = option(decorated)
        return decorated

    return decorate


def _parse_region(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    try:
        x, y, width, height = map(int, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not X,Y,WIDTH,HEIGHT, four whole numbers of px.") from None
    return x, y, width, height


def _make_latents(latents: Path, **said: Any) -> Any:
    from tiler.latents import Latents

    return Latents(latents, **said)


def _make_output(output: Path, **said: Any) -> Any:
    from tiler.formats.register import describe_output

    # An option that was not given is not an option of the wrong kind of file.
    return describe_output(output, {name: value for name, value in said.items() if value is not None})


tile_size = _option(
    "--tile-size",
    "tile_size_px",
    metavar="PX",
    default="auto",
    callback=_parse_tile_size,
    help="Side of a unit of work; auto takes the least work in --memory.",
)
memory = _option(
    "--memory",
    "memory_bytes",
    metavar="GIB",
    type=click.FloatRange(min=0, min_open=True),
    callback=_parse_memory,
    help="Peak memory to plan for.  [default: three quarters of what is free]",
)
weights = _option("--weights", metavar="NAME|FILE", help=_WEIGHTS_HELP)
plan_weights = _option("--weights", metavar="NAME|FILE", help="Of another network than that of 4 channels.")
key = _option("--key", metavar="NAME", help="Which array of a file of several.  [default: the only one, or latents]")
index = _number("--index", metavar="N", help="Which of a batch, from 0.")
axes = _option(
    "--axes",
    metavar="BCHW",
    help="What the axes of the array are: B batch, C channels, H rows, W columns.  [default: what the file says, or "
    "what alone fits]",
)
latent_space = _option(
    "--latent-space",
    "space",
    type=click.Choice(["diffusion", "vae"]),
    help="Of the latents: what a sampler emits, or what the VAE takes.  [default: what the file says, or diffusion]",
)
latent_scale = _option(
    "--latent-scale", "scale", metavar="X", type=float, help="From VAE space: (latents - shift) * scale.  [the model's]"
)
latent_shift = _option("--latent-shift", "shift", metavar="X", type=float, help="Likewise.  [the model's, or 0]")
preview_size = _number("--size", "size_px", metavar="PX", default=512, help="Longest side of the preview, at most.")
upscale = _number("--upscale", metavar="N", default=1, help="Enlarge the latents N times first (bicubic).")
nonfinite = _option(
    "--nonfinite",
    type=click.Choice(["error", "zero"]),
    default="error",
    help="What NaN and Inf are: an error, or read as 0.",
)
wrap = _option(
    "--wrap",
    type=click.Choice(["x", "y", "both"]),
    help="Ends that join without a seam, for textures and panoramas: x left and right, y top and bottom.",
)
region = _option(
    "--region",
    metavar="X,Y,WIDTH,HEIGHT",
    callback=_parse_region,
    help="Decode this part of the image alone, to the pixels that it has in the whole.",
)
workers = _number(
    "--workers", metavar="N", help="Threads that read, compress and write.  [default: one a core, 2 to 8]"
)
engine = _option(
    "--engine",
    type=click.Choice(["kernels", "keras"]),
    help="What runs the network: kernels for CPUs, float32, or Keras, on a GPU too and in any precision.  [default: "
    "keras where it has a GPU or the precision is less, else kernels]",
)
precision = _option(
    "--precision",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    help="Of weights and maps; only float32 is exact.",
)
compression = _option(
    "--compression",
    type=click.Choice(["deflate", "jpeg", "lzw", "none", "webp", "zstd", "jxl"]),
    help="Of a TIFF or OME-Zarr; deflate, lzw and zstd are lossless; zstd, webp and jxl are not read "
    "everywhere.  [default: deflate]",
)
quality = _number(
    "--quality",
    metavar="Q",
    help="Of JPEG, WebP and JPEG XL, 1 to 100; WebP and JPEG XL of 100 are lossless.  [default: 90]",
)
dtype = _option(
    "--dtype",
    type=click.Choice(["uint8", "uint16", "float32"]),
    help="Numbers of the pixels; float32 is what the model gives, about 0 to 1 and not clipped.  [default: uint8]",
)
layout = _option(
    "--layout",
    type=click.Choice(["pages", "ome"]),
    help="Of a TIFF's levels: pages for OpenSlide, libvips and most others, ome (OME-TIFF) for Bio-Formats, QuPath and "
    "Fiji.  [default: ome where the name ends in .ome.tif, else pages]",
)
file_tile = _number(
    "--file-tile",
    "file_tile_px",
    metavar="PX",
    help="Side of the tiles of the TIFF itself, or of a Zarr's chunks.  [default: what suits --tile-size, up to 512]",
)
pyramid = _option(
    "--pyramid/--no-pyramid",
    default=None,
    help="Whether a TIFF or OME-Zarr gets smaller levels for viewers.  [default: pyramid]",
)
colour = _option(
    "--colour",
    type=click.Choice(["srgb", "linear"]),
    help="What the numbers of a picture are.  [default: what its file says]",
)
background = _option(
    "--background", metavar="#RRGGBB", default="white", help="What shows through where a picture is transparent."
)
page = _number("--page", metavar="N", help="Which of several pictures in the file, from 0.")
keep_metadata = _option(
    "--keep-metadata",
    is_flag=True,
    help="Take along what the input says besides its values: prompt, workflow, EXIF, other texts.",
)
dpi = _option(
    "--dpi",
    metavar="X",
    type=float,
    help="Pixels an inch, of a TIFF, PNG, JPEG (a whole number) or WebP; a level of a TIFF has half that of the level "
    "below.  [default: none is said]",
)
pixel_size = _option(
    "--pixel-size",
    "pixel_size_um",
    metavar="UM",
    type=float,
    help="Side of a pixel in micrometres, of a TIFF or OME-Zarr.  [default: none is said]",
)
overwrite = _option("--overwrite", is_flag=True, help="Replace an existing output; start a half-done one over.")
resume = _option("--resume", is_flag=True, help="Go on with what a stopped run of the same job has left.")
force = _option("--force", is_flag=True, help="Begin even if disk or memory seem to be too small.")
dry_run = _option("--dry-run", is_flag=True, help="Show the plan, check the output, and stop.")
scheduler = _option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="Decode on the workers of a dask cluster; paths must mean the same files to all of them.",
)
samples = _option(
    "--samples",
    metavar="N|all",
    default="8",
    callback=_read_samples,
    help="Windows of 256 px to decode again; all decodes everything, at three times the cost.",
)
verify = _option(
    "--verify",
    metavar="N|all",
    callback=_read_samples,
    help="Verify the finished file: compare its levels, and decode so many windows of it again.",
)
seed = _number("--seed", metavar="N", default=0, help="Other windows for other seeds.")
quiet = _option("--quiet", is_flag=True, help="No progress bar, no report; only errors.")
profile = _option("--profile", is_flag=True, help="Show the seconds of each stage.")

PATH = click.Path(path_type=Path)

latents = _group(
    "latents",
    _make_latents,
    {
        "latents": click.argument("latents", type=PATH),
        "key": key,
        "index": index,
        "axes": axes,
        "space": latent_space,
        "scale": latent_scale,
        "shift": latent_shift,
        "upscale": upscale,
        "wrap": wrap,
        "nonfinite": nonfinite,
    },
)
output = _group(
    "output",
    _make_output,
    {
        "output": click.argument("output", type=PATH),
        "dtype": dtype,
        "layout": layout,
        "compression": compression,
        "quality": quality,
        "file_tile_px": file_tile,
        "pyramid": pyramid,
        "dpi": dpi,
        "pixel_size_um": pixel_size,
    },
)
resources = _group("resources", dict, {"tile_size_px": tile_size, "memory_bytes": memory, "workers": workers})
conduct = _group(
    "conduct", dict, {"overwrite": overwrite, "resume": resume, "force": force, "keep_metadata": keep_metadata}
)
