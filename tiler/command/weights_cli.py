"""The command line for files of weights: ``tiler weights …``."""

from pathlib import Path
from typing import Any

import click

from tiler.command.options import PATH, overwrite


@click.group()
def weights() -> None:
    """List, fetch, check, convert and export weights.

    Where commands take --weights NAME, the file is looked for in the folder that the variable TAESD_TILER_WEIGHTS
    names, then in the cache of huggingface_hub, then fetched.
    """


@weights.command("list")
def list_() -> None:
    """List the weights that have a name, and whose latents they decode."""
    from tiler.command.weights import list_weights

    click.echo(list_weights())


@weights.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Fetch the weights NAME from the hub, or find them in its cache, and check their sha256."""
    from tiler.command.weights import fetch_weights, is_published

    for part, path in fetch_weights(name).items():
        click.echo(f"{part} {path}")
        if not is_published(name, path):
            # Found in the folder of the environment, which comes first wherever weights are named.
            click.echo(f"Note: not the published file: path={path}", err=True)


@weights.command()
@click.argument("file", type=PATH)
def check(file: Path) -> None:
    """Say what FILE holds: layout, part, family, channels, sha256, and whether it is a published file."""
    from tiler.command.weights import check_weights, describe_weights

    click.echo(describe_weights(file, check_weights(file)))


@weights.command()
@click.argument("file", type=PATH)
@click.argument("output", type=PATH)
@overwrite
def convert(file: Path, output: Path, overwrite: bool) -> None:
    """Convert FILE of any layout to OUTPUT, a .safetensors file.

    One part gets the names of upstream, two parts those of diffusers.
    """
    from tiler.command.weights import convert_weights

    found = convert_weights(file, output, overwrite=overwrite)
    click.echo(f"{output}: {' and '.join(each.part for each in found)}, from layout {found[0].layout}")


@weights.command()
@click.argument("weights", metavar="NAME|FILE")
@click.argument("output", type=PATH)
@click.option(
    "--part",
    type=click.Choice(["auto", "decoder", "encoder"]),
    default="auto",
    show_default=True,
    help="auto is what the file holds, and of both the decoder.",
)
@overwrite
def export(weights: str, output: Path, part: Any, overwrite: bool) -> None:
    """Export the plain whole-image model to OUTPUT, .onnx or .keras, with free height and width."""
    from tiler.command.weights import export_weights

    checkpoint, operators = export_weights(weights, output, part=part, overwrite=overwrite)
    click.echo(f"{output}: {checkpoint.part}, family {checkpoint.family}, {checkpoint.channels} channels")
    if operators:
        click.echo(f"ONNX operators: {', '.join(operators)}")
