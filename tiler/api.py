"""The public calls: where source, plan, model and sink are put together, and nowhere else."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from taesd_core.engines import Engine
from tiler import models, options
from tiler.checks.verification import Samples, Verification
from tiler.decoded_image import CACHE_BYTES, DecodedImage
from tiler.fields import Fields
from tiler.formats.output_file import OutputFile
from tiler.formats.places import check_apart
from tiler.formats.register import describe_latents, describe_output, find_format
from tiler.jobs.job import Job
from tiler.jobs.schedule import Progress
from tiler.latents import Latents
from tiler.models import (
    PathLike,
    Precision,
    find_checkpoint,
    read_checkpoint,
    settle_engine,
)
from tiler.options import checked
from tiler.phase import REPORT
from tiler.planning import check_place, make_plan, tell_memory
from tiler.profile import Profile
from tiler.region import Region
from tiler.report import Report, describe_report, run_and_report
from tiler.sources.colour import Colour
from tiler.sources.input_file import open_regular_file
from tiler.sources.metadata import note_size, take_along, tell_not_kept
from tiler.sources.opening import Openable, open_image
from tiler.sources.positions import EdgePadded
from tiler.sources.ranges import NonFinite, Replaced, WithinRange, treat_nonfinite
from tiler.sources.source import fingerprint_source
from tiler.verifying import verify_output
from tiler.writing import check_file, name_for_others, write_image

if TYPE_CHECKING:
    import dask.array
    import distributed


@checked()
def open(
    latents: Openable | Latents,
    *,
    weights: PathLike | None = None,
    region: Region | None = None,
    tile_size_px: int | None = None,
    memory_bytes: int | None = None,
    precision: Precision = "float32",
    engine: Engine | None = None,
    dtype: DTypeLike = "uint8",
    cache_bytes: int = CACHE_BYTES,
) -> DecodedImage:
    """Open latents as the image that they decode to; nothing is decoded until somebody looks at a part.

    Args:
        latents: as for ``decode``.
        weights: as for ``decode``.
        region: as for ``decode``.
        tile_size_px: as for ``decode``, whose default it has.
        memory_bytes: as for ``decode``.
        precision: as for ``decode``.
        engine: as for ``decode``.
        dtype: "uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what it gives, not clipped.
        cache_bytes: the last tiles that were decoded are kept, up to this size.

    Returns:
        The image: ``shape``, ``levels`` and ``plan`` are known at once; ``image[100:300, 200:500]``,
        ``read(level, window)`` and ``tile(level, row, column)`` decode, exactly; ``overview(level, window)`` shows any
        part quickly; ``write(file)`` makes a file of it. It may be read from many threads, and travels to other
        processes where its latents are a file.

    Raises:
        InputError: latents or weights cannot be used.
        OptionError: an option is out of its range.

    Example:
        >>> import tiler
        >>> with tiler.open("latents.npy", weights="taesd_decoder.safetensors") as image:  # doctest: +SKIP
        ...     part = image[1000:1500, 2000:2500]
    """
    return DecodedImage(
        latents,
        weights=weights,
        region=region,
        tile_size_px=tile_size_px,
        memory_bytes=memory_bytes,
        precision=precision,
        engine=engine,
        dtype=dtype,
        cache_bytes=cache_bytes,
    )


@checked()
def decode(
    latents: Openable | Latents,
    output: PathLike | OutputFile,
    *,
    weights: PathLike | None = None,
    region: Region | None = None,
    tile_size_px: int | None = None,
    memory_bytes: int | None = None,
    workers: int | None = None,
    precision: Precision = "float32",
    engine: Engine | None = None,
    overwrite: bool = False,
    resume: bool = False,
    force: bool = False,
    keep_metadata: bool = False,
    verify: Samples | None = None,
    progress: Progress | None = None,
    profile: Profile | None = None,
    client: "distributed.Client | None" = None,
) -> Report:
    """Decode latents to an image file, tile by tile, to the pixels of decoding the whole image at once.

    Args:
        latents: a file, an array or a source; ``Latents`` says how it is to be read.
        output: the file to write, ``.tif`` or ``.tiff`` (a tiled BigTIFF), ``.zarr`` (an OME-Zarr), ``.png``, ``.jpg``,
            ``.webp`` or ``.npy`` (height, width, 3); ``Tiff``, ``Zarr``, … say what it is to be like.
        weights: the decoder: a file, or a name such as "taesd" or "photo" (``tiler weights list``), whose file is
            fetched if need be. By default what the environment variable TAESD_TILER_WEIGHTS names.
        region: (x, y, width, height) of the part of the image to decode, px from its top left corner; it gets the
            pixels that it has in the whole. By default the whole.
        tile_size_px: side of a tile in px of the image; a multiple of 8 and of the TIFF's own tiles. By default one
            that network and image alone determine, or a smaller one where ``memory_bytes`` do not suffice for it.
        memory_bytes: peak memory to plan for; by default three quarters of what is free.
        workers: threads that read, compress and write while one tile is decoded; at most so many tiles are held.
        precision: of weights and maps: "float32" (and no less anywhere), "float16" or "bfloat16".
        engine: what runs the network: "kernels", which compute in float32 on a CPU, or "keras", on a GPU or a CPU. By
            default Keras where its backend has a GPU or ``precision`` is less, else the kernels.
        overwrite: whether an existing output may be replaced, and a half-done one started over.
        resume: go on with what a run of the same job left that was killed, stopped or failed; without one, start.
        force: begin even where the disk or the memory seem to be too small.
        keep_metadata: whether what a ``.safetensors``, ``.latent`` or PNG of latents says besides, such as the prompt
            and the workflow of ComfyUI, is taken along: texts of a PNG, EXIF of JPEG and WebP, the description of a
            TIFF, attributes of a Zarr.
        verify: how many windows of the finished file to decode again, or "all", as ``tiler.verify`` does.
        progress: ``progress(n_done, n_tiles, n_px)``, called after each tile from any thread.
        profile: gets the seconds that each stage took.
        client: a dask cluster to decode on, in place of this process; its workers open latents, weights and output by
            their paths. ``memory_bytes`` is for each of them then; ``workers`` must be left out.

    Returns:
        What was written.

    Raises:
        InputError: latents or weights cannot be used.
        OptionError: an option is out of its range.
        OutputExistsError: the output exists or is half done, and neither ``overwrite`` nor ``resume`` is true.
        RefusedError: the disk or the memory seem to be too small.
        TileError: a tile failed. Finished tiles are kept beside the output, as after OSError (a full disk) and
            KeyboardInterrupt: ``resume=True`` goes on.
        VerificationError: the file is not what the latents decode to; it is left for a closer look.

    Example:
        >>> import tiler
        >>> tiler.decode("latents.npy", "image.tif", weights="taesd_decoder.safetensors")  # doctest: +SKIP
    """
    started = time.monotonic()
    latents, file = Latents.of(latents), describe_output(output)
    check_file(file, latents, weights, overwrite=overwrite, resume=resume)
    if client is not None:
        from tiler.jobs.cluster import Cluster

        latents, file = name_for_others(latents, file)
        engine = settle_engine(engine, precision, Cluster(client).choose_engine)
    image = DecodedImage(
        latents,
        weights=weights,
        region=region,
        tile_size_px=tile_size_px,
        memory_bytes=memory_bytes,
        precision=precision,
        engine=engine,
    )
    return write_image(
        image,
        file,
        workers=workers,
        overwrite=overwrite,
        resume=resume,
        force=force,
        keep_metadata=keep_metadata,
        verify=verify,
        progress=progress,
        profile=profile,
        client=client,
        started=started,
    )


@checked(output=options.path)
def verify(
    output: PathLike,
    latents: Openable | Latents,
    *,
    weights: PathLike | None = None,
    region: Region | None = None,
    samples: Samples = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verification:
    """Compare a file that ``decode`` has written with its latents, none of it through the code that wrote it.

    Shape, number type and number of levels are checked; every tile of every level against the level below; and some
    windows are decoded again by the plain whole-image model. A pixel of a lossless pyramid that has changed by 4 or
    more of 255 is found wherever it is. Without a pyramid, or where all levels changed alike, what is wrong is found
    in the windows alone: a part p of the image with a probability of about 1 - (1 - p) ** samples, for sure with "all".

    Args:
        output: the file. A WebP or JPEG XL with losses, and a PNG of 16 bits, cannot be verified.
        latents: as they were given to ``decode``; their axes, where nobody says them, are those that the file notes.
        weights: as they were given to ``decode``.
        region: as it was given to ``decode``.
        samples: how many windows of about 256 × 256 px to decode again, spread over the image, its corners, borders
            and seams of tiles; "all" decodes everything, at about three times the cost of ``decode``.
        seed: other windows for other seeds.
        progress: ``progress(n_done, n_all, n_px)``, called after each window and each tile.

    Returns:
        What was found; ``ok`` says whether the file is right, ``verdict`` says it in words.

    Raises:
        InputError: latents or weights cannot be used, or there is no such file.
        OptionError: an option is out of its range.

    Example:
        >>> import tiler
        >>> tiler.verify("image.tif", "latents.npy", weights="taesd_decoder.safetensors").ok  # doctest: +SKIP
        True
    """
    path = Path(output)
    find_format(path)
    if not path.is_dir():
        os.close(open_regular_file(path))
    latents = Latents.of(latents)

    def open_image(axes: str | None) -> DecodedImage:
        return DecodedImage(latents if axes is None else replace(latents, axes=axes), weights=weights, region=region)

    return verify_output(path, open_image, samples, seed, progress, noted=latents.axes is None)


@checked(latents=options.path)
def encode(
    image: Openable,
    latents: PathLike,
    *,
    axes: str | None = None,
    weights: PathLike | None = None,
    tile_size_px: int | None = None,
    memory_bytes: int | None = None,
    workers: int | None = None,
    precision: Precision = "float32",
    engine: Engine | None = None,
    nonfinite: NonFinite = "error",
    page: int | None = None,
    colour: Colour | None = None,
    background: str = "white",
    overwrite: bool = False,
    resume: bool = False,
    force: bool = False,
    keep_metadata: bool = False,
    progress: Progress | None = None,
    profile: Profile | None = None,
) -> Report:
    """Encode an image to latents, tile by tile, to the values of encoding the whole image at once.

    An image whose sides are no multiples of 8 is continued to the next multiple by its last row and column. ``decode``
    gives it in its own size again, which ``.safetensors`` and ``.png`` keep (``image_size_px``) and ``.npy`` does not.

    Args:
        image: a picture (PNG, JPEG, TIFF, WebP, AVIF, BMP, PPM or JPEG 2000), a ``.npy`` file, an array or a source;
            (height, width, 3), uint8, uint16 or floats in [0, 1]. A large picture that cannot be read by window is
            kept beside ``latents`` meanwhile, uncompressed, in a file without a name.
        latents: the file to write, ``.npy`` or ``.safetensors`` (key "latents"): (1, channels, h, w) float32 as
            diffusion pipelines have them; or ``.png``, RGBA with 8 bits of each of four channels.
        axes: of an array or a ``.npy`` file, a letter each, as "HWC" or "BCHW"; not needed where they can be told.
        weights: the encoder, a file or a name, as for ``decode``.
        tile_size_px: side of a tile in px of the image, a multiple of 8; chosen as for ``decode`` by default.
        memory_bytes: as for ``decode``.
        workers: threads that read and write while one tile is encoded.
        precision: as for ``decode``.
        engine: likewise.
        nonfinite: what NaN and Inf in an image of floats are: an error that names the place, or "zero", read as 0.
        page: which of several pictures in the file, from 0.
        colour: what the numbers of a picture are, whatever its file says: "srgb" or "linear" light. A TIFF of floats
            without a profile needs it. By default colours are converted to sRGB as the file says.
        background: what shows through where a picture is transparent: "#rrggbb", "white" or "black".
        overwrite: whether an existing output may be replaced, and a half-done one started over.
        resume: go on with what a run of the same job left that was killed, stopped or failed; without one, start.
        force: begin even where the disk or the memory seem to be too small.
        keep_metadata: whether EXIF and texts of the picture are taken along, into the metadata of a ``.safetensors`` or
            texts of a PNG, for ``decode``; never its orientation, which is applied, nor a thumbnail.
        progress: ``progress(n_done, n_tiles, n_px)``, called after each tile from any thread.
        profile: gets the seconds that each stage took.

    Returns:
        What was written.

    Raises:
        InputError: image or weights cannot be used.
        OptionError: an option is out of its range.
        OutputExistsError: the output exists or is half done, and neither ``overwrite`` nor ``resume`` is true.
        RefusedError: the disk or the memory seem to be too small.
        TileError: a tile failed. Finished tiles are kept beside the output, as after OSError (a full disk) and
            KeyboardInterrupt: ``resume=True`` goes on.
    """
    started = time.monotonic()
    file = describe_latents(latents)
    check_apart(Path(latents), {"image": image, "weights": weights})
    check_place(file, overwrite=overwrite, resume=resume)
    engine = settle_engine(engine, precision)
    path = find_checkpoint(weights, "encoder")
    checkpoint = read_checkpoint(path, "encoder")
    replaced = Replaced()
    opened = open_image(
        image,
        axes=axes,
        page=page,
        colour=colour,
        background=background,
        spool_folder=Path(latents).absolute().parent,
    )
    axes = opened.axes
    within = treat_nonfinite(WithinRange(opened), nonfinite, replaced)
    source = EdgePadded(within, checkpoint.network.scale_in)
    plan = make_plan(
        source, checkpoint.network, file, tile_size_px, memory_bytes, workers, resume=resume, engine=engine
    )
    metadata, said = take_along(image, keep=keep_metadata, picture=True, page=page)
    said += tell_memory(plan, memory_bytes)
    colours = source.notes
    notes = {"colours": "; ".join(colours)} if colours and file.keeps else {}
    if opened.shape[:2] != source.shape[:2]:
        if file.keeps:
            notes.update(note_size(*opened.shape[:2]))
        else:
            said += (tell_not_kept(opened.shape[:2], source.shape[:2], Path(latents)),)
    planned = file.plan(plan, overwrite=overwrite, notes=notes, metadata=metadata)
    model = partial(models.load_model, path, "encoder", precision, None, engine)
    inputs: Fields = {
        "image": fingerprint_source(source),
        **({} if axes is None else {"axes": axes}),
        "weights": checkpoint.sha256,
        "precision": precision,
        "engine": engine,
        "nonfinite": nonfinite,
        "colours": colour or "as the file says",
        "background": background,
    }
    job = Job(planned, plan, source, inputs, model, resume=resume, force=force, profile=profile or Profile())
    continued_px = source.shape[0] - opened.shape[0], source.shape[1] - opened.shape[1]
    report = run_and_report(job, progress, started)
    report = replace(
        report,
        n_replaced=len(replaced),
        continued_px=continued_px,
        notes=(*source.notes, *report.notes, *said),
    )
    REPORT.info(describe_report(report))
    return report


@checked()
def decode_lazily(
    latents: Openable | Latents,
    *,
    weights: PathLike | None = None,
    region: Region | None = None,
    tile_size_px: int | None = None,
    dtype: DTypeLike = "uint8",
) -> "dask.array.Array":
    """Return the decoded image as a dask array, a chunk per tile; nothing is decoded until it is computed.

    Args:
        latents: as for ``decode``; a file is opened in each process that computes a chunk, by its absolute path.
        weights: as for ``decode``.
        region: as for ``decode``.
        tile_size_px: side of a chunk in px of the image.
        dtype: "uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what it gives, not clipped.

    Returns:
        (height, width, 3) of this type; slicing it decodes only the tiles that it touches.

    Raises:
        InputError: latents or weights cannot be used.
        OptionError: an option is out of its range.
    """
    image = DecodedImage(latents, weights=weights, region=region, tile_size_px=tile_size_px, dtype=dtype)
    return image.to_dask()


@checked()
def preview(latents: Openable | Latents, *, weights: PathLike | None = None, size_px: int = 512) -> NDArray[np.uint8]:
    """Return a small picture of latents: averaged down and decoded whole, in a fraction of a second once loaded.

    It serves the progress callback of a diffusion pipeline; see ``examples/preview_callback.py``.

    Args:
        latents: as for ``decode``; of any size, they are read a part at a time.
        weights: as for ``decode``.
        size_px: longest side of the picture, at most; smaller latents are not enlarged.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InputError: latents or weights cannot be used.
        OptionError: an option is out of its range.
        RefusedError: the memory seems to be too small for a picture of this size.

    Example:
        >>> import tiler
        >>> picture = tiler.preview(latents, weights="taesd_decoder.safetensors")  # doctest: +SKIP
    """
    return DecodedImage(latents, weights=weights).preview(size_px)
