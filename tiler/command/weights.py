"""Files of weights: which there are, what one holds, and the same in another form. Nothing is decoded here."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from taesd_core.checkpoint import Checkpoint, CheckpointError, Part, load_parts, name_tensors
from taesd_core.quiet_start import quiet_start
from taesd_core.variants import KNOWN, VARIANTS, Variant, find_local, list_fitting
from tiler import files
from tiler.errors import InputError, OptionError
from tiler.formats.places import check_apart, check_output
from tiler.models import PathLike, find_checkpoint, read_checkpoint

PARTS: tuple[Part, ...] = ("decoder", "encoder")
EXPORTS = (".onnx", ".keras")
"""What ``export_weights`` writes."""

Pick = Part | Literal["auto"]


def list_weights() -> str:
    """Return a table of the variants that are known by name."""
    rows = [("name", "channels", "px", "latents of", "(z - shift) * scale", "here", "files")]
    for variant in VARIANTS.values():
        convention = "as they are" if variant.scale is None else f"(z - {variant.shift:g}) * {variant.scale:g}"
        size = f"×{variant.upscaling}"
        rows.append(
            (
                variant.name,
                f"{variant.channels}",
                size,
                variant.fits,
                convention,
                _say_here(variant),
                _say_files(variant),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]]) for row in rows
    )


def fetch_weights(name: str) -> dict[Part, Path]:
    """Return the files of a variant, fetched if they are not here.

    Raises:
        OptionError: there is no variant of this name.
        InputError: a file cannot be fetched, or is not the published one.
    """
    if name not in VARIANTS:
        raise OptionError(f"No such weights: name={name}. Use one of {', '.join(VARIANTS)}.")
    return {part: find_checkpoint(name, part) for part in PARTS}


def is_published(name: str, path: Path) -> bool:
    """Say whether a file of a variant comes with this package or is, byte for byte, a published one."""
    if VARIANTS[name].packaged:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in KNOWN


def check_weights(path: PathLike) -> tuple[Checkpoint, ...]:
    """Return what a file holds: one part, or both.

    Raises:
        InputError: it cannot be read, or holds no whole part.
    """
    try:
        return load_parts(path)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"Cannot read the weights: weights={path} ({error.strerror}).") from error


def describe_weights(path: PathLike, found: tuple[Checkpoint, ...]) -> str:
    """Return what ``check_weights`` has found, in words."""
    first = found[0]
    known = _find_known(first.sha256)
    lines = [f"{path}: {' and '.join(each.part for each in found)}, layout {first.layout}"]
    for each in found:
        n_values = sum(values.size for values in each.arrays)
        lines.append(f"  {each.part}: family {each.family}, {each.channels} channels, {n_values:,} parameters")
    lines.append(f"  sha256 {first.sha256}")
    if known:
        lines.append(f"  known: {known}")
    else:
        fitting = [f"{each.name} ({each.fits})" for each in list_fitting({first.channels}, first.family)]
        lines.append(
            f"  not a published file that is known here; it has the shapes of {' or '.join(fitting) or 'none'}"
        )
    return "\n".join(lines)


def convert_weights(path: PathLike, output: PathLike, *, overwrite: bool = False) -> tuple[Checkpoint, ...]:
    """Write the weights of a file of any layout as safetensors: one part as published, both parts as diffusers does.

    Raises:
        InputError: the file cannot be read, or holds no whole part.
        OptionError: the output is to be of another kind.
        OutputExistsError: the output exists, and ``overwrite`` is false.
    """
    output = _check_name(output, (".safetensors",), path, overwrite)
    found = check_weights(path)
    from safetensors.numpy import save

    layout = "upstream" if len(found) == 1 else "diffusers"
    tensors = {name: values for each in found for name, values in name_tensors(each, layout).items()}
    with files.written_whole(output) as part:
        part.write_bytes(save(tensors))
    return found


def export_weights(
    weights: PathLike, output: PathLike, *, part: Pick = "auto", overwrite: bool = False
) -> tuple[Checkpoint, list[str]]:
    """Write the plain whole-image model, with free height and width, for those who run it elsewhere.

    Args:
        weights: a file, or the name of a variant.
        output: the file to write: ``.onnx`` (extra ``onnx``), float32 (batch, channels, height, width) on both
            sides; or ``.keras``, (batch, height, width, channels).
        part: "decoder" or "encoder"; "auto" is what the file holds, and of both the decoder.
        overwrite: whether an existing output may be replaced.

    Returns:
        What was exported, and the ONNX operators that it takes.

    Raises:
        InputError: the weights cannot be used.
        OptionError: the output is to be of another kind, or what writes it is not installed.
        OutputExistsError: the output exists, and ``overwrite`` is false.
    """
    output = _check_name(output, EXPORTS, weights, overwrite)
    checkpoint = _pick(weights, part)
    operators: list[str] = []
    if output.suffix == ".onnx":
        try:
            from taesd_core.onnx_model import build_onnx_model, list_operators
        except ImportError:
            raise OptionError("Writing ONNX takes the package onnx: pip install 'taesd-tiler[onnx]'.") from None
        model = build_onnx_model(checkpoint)
        operators = list_operators(model)
        with files.written_whole(output) as written:
            written.write_bytes(model.SerializeToString())
    else:
        with quiet_start():
            from taesd_core.keras_model import build_portable_model
        portable = build_portable_model(checkpoint)
        with files.written_whole(output) as written:
            portable.save(written)
    return checkpoint, operators


def _pick(weights: PathLike, part: Pick) -> Checkpoint:
    if part != "auto":
        return read_checkpoint(find_checkpoint(weights, part), part)
    if os.fspath(weights) in VARIANTS:
        return read_checkpoint(find_checkpoint(weights, "decoder"), "decoder")
    return check_weights(find_checkpoint(weights, "decoder"))[0]


def _check_name(output: PathLike, kinds: tuple[str, ...], weights: PathLike, overwrite: bool) -> Path:
    output = Path(output)
    if output.suffix not in kinds:
        raise OptionError(f"No such kind of output: path={output}. The name must end in {', '.join(kinds)}.")
    check_apart(output, {"weights": weights})
    check_output(output, overwrite=overwrite)
    return output


def _find_known(sha256: str) -> str | None:
    """Return which published file has a hash, in words."""
    if sha256 in KNOWN:
        variant, file = KNOWN[sha256]
        return f"{variant.name} ({variant.fits}), {file.name} of {file.repository}@{file.revision[:8]}"
    for variant in VARIANTS.values():
        for part, name in variant.packaged.items():
            path = find_local(variant, part)
            if path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                return f"{variant.name} ({variant.fits}), {name} of this package"
    return None


def _say_here(variant: Variant) -> str:
    try:
        found = [find_local(variant, part) for part in PARTS]
    except CheckpointError:
        return "damaged"
    if variant.packaged:
        return "comes along"
    here = [part for part, path in zip(PARTS, found, strict=True) if path is not None]
    return "yes" if len(here) == len(PARTS) else "".join(here) or "no"


def _say_files(variant: Variant) -> str:
    if variant.packaged:
        return ", ".join(variant.packaged.values())
    names = dict.fromkeys(file.name for file in variant.files.values())
    if not names:
        return f"none on the hub: {variant.source}"
    file = next(iter(variant.files.values()))
    return f"{', '.join(names)} of {file.repository}@{file.revision[:8]}"
