"""The command line. It loads nothing heavy: TensorFlow, dask, tifffile and Pillow come with the work itself."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiler.command import options
from tiler.command.failures import Group
from tiler.command.weights_cli import weights

if TYPE_CHECKING:
    from tiler.formats.output_file import OutputFile
    from tiler.latents import Latents
    from tiler.region import Region

LANDSCAPE = Path(__file__).with_name("landscape.png")
"""The demo's latents, of 8 bits; ``examples/landscape.py`` draws and encodes them."""
DEMO_WINDOWS = 4
"""So many windows of the demo are decoded again."""


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"tiler {version('taesd-tiler')}")
        except PackageNotFoundError:
            click.echo("tiler of unknown version, not installed")
        context.exit()


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(context: click.Context, debug: bool) -> None:
    """Decode huge latents of diffusion models into huge images, tile by tile, exactly.

    All sizes are in pixels of the image.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command()
@options.latents
@options.output
@options.weights
@options.region
@options.resources
@options.precision
@options.engine
@options.conduct
@options.verify
@options.scheduler
@options.dry_run
@options.profile
@options.quiet
def decode(
    latents: "Latents",
    output: "OutputFile",
    weights: str | None,
    region: "Region | None",
    resources: dict[str, Any],
    precision: Any,
    engine: Any,
    conduct: dict[str, bool],
    verify: Any,
    scheduler: str | None,
    dry_run: bool,
    profile: bool,
    quiet: bool,
) -> None:
    """Decode LATENTS to the image OUTPUT.

    LATENTS is a .npy, .npz, .safetensors, .latent, .pt or .tif file, a Zarr folder, or a PNG of 8-bit latents. OUTPUT
    ends in .tif or .tiff (a pyramidal BigTIFF), .zarr (an OME-Zarr), .png, .jpg, .webp or .npy.
    """
    from taesd_core.engines import tell_precision
    from tiler import api, planning
    from tiler.command.progress import show_progress
    from tiler.models import find_checkpoint, find_named
    from tiler.profile import Profile
    from tiler.report import describe_report

    # What the workers of a cluster have is not known here.
    _note(output.caveat, "" if scheduler else tell_precision(precision), quiet=quiet)
    if dry_run:
        found = find_checkpoint(weights, "decoder", latents)
        _check_output(output, conduct, latents=latents.data, weights=found)
        # By its name, which knows the way from VAE space.
        resources = {**resources, "weights": find_named(weights) or found, "resume": conduct["resume"]}
        click.echo(planning.plan_decode(latents, output, region=region, **resources).summary())
        return
    seconds = Profile() if profile else None
    with show_progress("Decoding", quiet=quiet) as progress, _connect(scheduler) as client:
        report = api.decode(
            latents,
            output,
            weights=weights,
            region=region,
            precision=precision,
            engine=engine,
            verify=verify,
            progress=progress,
            profile=seconds,
            client=client,
            **resources,
            **conduct,
        )
    if not quiet:
        click.echo(main.say(describe_report(report)))
        if report.verification is not None:
            click.echo(report.verification.verdict)
    if seconds is not None:
        click.echo(seconds.summary())


@main.command()
@click.argument("output", type=options.PATH)
@options.latents
@options.weights
@options.region
@options.samples
@options.seed
@options.quiet
def verify(
    output: Path,
    latents: "Latents",
    weights: str | None,
    region: "Region | None",
    samples: Any,
    seed: int,
    quiet: bool,
) -> None:
    """Compare the image OUTPUT with the LATENTS that it was decoded from.

    Its levels are compared with each other, all of them, and some windows are decoded again in a plain way. A pixel
    of a lossless pyramid that has changed by 4 of 255 is found wherever it is; without a pyramid only in those windows.
    The exit code is 7 when something is off.
    """
    from tiler import api
    from tiler.command.progress import show_progress
    from tiler.errors import VerificationError

    with show_progress("Verifying", quiet=quiet) as progress:
        found = api.verify(
            output, latents, weights=weights, region=region, samples=samples, seed=seed, progress=progress
        )
    if not quiet:
        for line in found.lines:
            click.echo(line)
    if not found.ok:
        raise VerificationError(found.verdict)
    if not quiet:
        click.echo(found.verdict)


@main.command()
@click.argument("image", type=options.PATH)
@click.argument("latents", type=options.PATH)
@options.axes
@options.weights
@options.resources
@options.precision
@options.engine
@options.nonfinite
@options.page
@options.colour
@options.background
@options.conduct
@options.dry_run
@options.profile
@options.quiet
def encode(
    image: Path,
    latents: Path,
    axes: str | None,
    weights: str | None,
    resources: dict[str, Any],
    precision: Any,
    engine: Any,
    nonfinite: Any,
    page: int | None,
    colour: Any,
    background: str,
    conduct: dict[str, bool],
    dry_run: bool,
    profile: bool,
    quiet: bool,
) -> None:
    """Encode IMAGE to LATENTS, a .npy, .safetensors or (8 bits) .png file.

    IMAGE is a PNG, JPEG, TIFF, WebP, AVIF, BMP, PPM or JPEG 2000 file, or a .npy file of (height, width, 3). Sides
    that are no multiples of 8 px are continued by the last row and column.
    """
    from taesd_core.engines import tell_precision
    from tiler import api, planning
    from tiler.command.progress import show_progress
    from tiler.models import find_checkpoint
    from tiler.profile import Profile
    from tiler.report import describe_report

    _note(tell_precision(precision), quiet=quiet)
    if dry_run:
        from tiler.formats.register import describe_latents

        found = find_checkpoint(weights, "encoder")
        _check_output(describe_latents(latents), conduct, image=image, weights=found)
        resources = {**resources, "weights": found, "resume": conduct["resume"]}
        how = {"axes": axes, "page": page, "colour": colour, "background": background}
        click.echo(planning.plan_encode(image, latents, **how, **resources).summary())
        return
    seconds = Profile() if profile else None
    with show_progress("Encoding", quiet=quiet) as progress:
        report = api.encode(
            image,
            latents,
            axes=axes,
            weights=weights,
            precision=precision,
            engine=engine,
            nonfinite=nonfinite,
            progress=progress,
            profile=seconds,
            page=page,
            colour=colour,
            background=background,
            **resources,
            **conduct,
        )
    if not quiet:
        click.echo(main.say(describe_report(report)))
    if seconds is not None:
        click.echo(seconds.summary())


@main.command()
@options.latents
@click.argument("output", type=options.PATH)
@options.weights
@options.preview_size
@options.overwrite
@options.quiet
def preview(latents: "Latents", output: Path, weights: str | None, size_px: int, overwrite: bool, quiet: bool) -> None:
    """Decode LATENTS averaged down to the small picture OUTPUT: .png, .jpg or .webp.

    It takes about a second, after the seconds in which TensorFlow loads.
    """
    import time

    from tiler import api
    from tiler.command.preview_file import check_picture, save_picture
    from tiler.command.progress import tell_lines
    from tiler.formats.places import check_apart

    output = check_picture(output, overwrite=overwrite)
    check_apart(output, {"latents": latents.data, "weights": weights})
    started = time.monotonic()
    with tell_lines(quiet=quiet):
        picture = api.preview(latents, weights=weights, size_px=size_px)
    save_picture(picture, output)
    if not quiet:
        height, width, _ = picture.shape
        click.echo(f"{output}: {height:,} × {width:,} px in {time.monotonic() - started:.1f} s")


@main.command()
@options.latents
@options.region
@options.plan_weights
@options.resources
@options.engine
@options.file_tile
def plan(
    latents: "Latents",
    region: "Region | None",
    weights: str | None,
    resources: dict[str, Any],
    engine: Any,
    file_tile_px: int | None,
) -> None:
    """Show how LATENTS would be decoded; nothing is decoded."""
    from tiler import planning
    from tiler.formats.tiff import Tiff

    output = Tiff("image.tif", file_tile_px=file_tile_px)
    plan = planning.plan_decode(latents, output, weights=weights, region=region, engine=engine, **resources)
    click.echo(plan.summary())


@main.command()
@click.argument("output", type=options.PATH, default=Path("demo.tif"))
@options.overwrite
@options.quiet
def demo(output: Path, overwrite: bool, quiet: bool) -> None:
    """Decode a landscape of 8 megapixels to the pyramidal TIFF OUTPUT (demo.tif), and verify it.

    It needs no network: latents and weights come along. The weights are this project's own, not Stable Diffusion
    compatible.
    """
    from tiler import api
    from tiler.command.progress import show_progress
    from tiler.report import describe_report

    with show_progress("Decoding", quiet=quiet) as progress:
        # The latents are always the same, so that a demo that was stopped goes on; unless it is to start over.
        report = api.decode(
            LANDSCAPE,
            output,
            weights="photo",
            overwrite=overwrite,
            resume=not overwrite,
            verify=DEMO_WINDOWS,
            progress=progress,
        )
    if quiet:
        return
    assert report.verification is not None
    click.echo(main.say(describe_report(report)))
    click.echo(
        f"{report.verification.verdict}\n"
        f"Look at {output} with QuPath, vipsdisp or another viewer of pyramidal TIFF; GIMP opens it as well.\n"
        "The weights were photo, this project's own: they do not fit the latents of Stable Diffusion."
    )


main.add_command(weights)


def _note(*notes: str | None, quiet: bool) -> None:
    for note in notes:
        if note and not quiet:
            click.echo(f"Note: {note}", err=True)


def _connect(scheduler: str | None) -> AbstractContextManager[Any]:
    if scheduler is None:
        return nullcontext()
    from tiler.jobs.cluster import connect

    return connect(scheduler)


def _check_output(file: "OutputFile", conduct: dict[str, bool], **inputs: object) -> None:
    """Refuse what the run would refuse."""
    from tiler.errors import OutputExistsError
    from tiler.formats.places import check_apart, find_part
    from tiler.jobs.journal_file import find_begun
    from tiler.planning import check_place

    overwrite, resume, path = conduct["overwrite"], conduct["resume"], Path(file.path)
    check_apart(path, inputs)
    check_place(file, overwrite=overwrite, resume=resume)
    if find_begun(path) and not overwrite and not resume:
        raise OutputExistsError(
            f"The output is half done: path={find_part(path)}. Use --resume to go on, or --overwrite to start over."
        )
