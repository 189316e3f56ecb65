"""A trial without network: a picture of our own is encoded, decoded and compared, tile by tile."""

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiler.api import decode, encode
from tiler.command.demo_picture import DemoPicture
from tiler.errors import OptionError
from tiler.formats.sink import check_output
from tiler.latents import Latents
from tiler.phase import Phase
from tiler.report import Report
from tiler.sources.source import Readable
from tiler.window import Span, Window

Show = Callable[[str], AbstractContextManager[Callable[[int, int, int], None] | None]]
"""``show(label)``: a context that shows progress, such as ``tiler.command.progress.show_progress``."""

_WEIGHTS = "photo"
MOST_MEGAPIXELS = 1e6
"""A terapixel."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo has done."""

    encoded: Report
    """The latents, which are gone by now."""
    decoded: Report
    """The image."""
    psnr_db: float
    """How close the image is to the picture: peak signal-to-noise ratio over all samples."""


def run_demo(
    output: str | os.PathLike[str] = "demo.tif",
    *,
    megapixels: float = 8.0,
    overwrite: bool = False,
    show: Show = lambda label: nullcontext(),
) -> DemoReport:
    """Draw a picture, encode it, decode it to a pyramidal TIFF, and compare the two.

    No step holds the picture or the image as a whole.

    Args:
        output: the TIFF to write.
        megapixels: about how many million pixels, in a picture of 3:2.
        overwrite: whether an existing output may be replaced.
        show: gives the context in which each of the two steps shows its progress.

    Raises:
        OptionError: ``megapixels`` is not a positive number, or ``output`` no name of a TIFF.
        OutputExistsError: the output exists and ``overwrite`` is false.
        TileError: a tile failed; of the image, what is finished is kept for the next run.
    """
    output = Path(output)
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise OptionError(f"The demo writes a TIFF: path={output}. The name must end in .tif or .tiff.")
    check_output(output, overwrite=overwrite)
    picture = DemoPicture(*choose_shape(megapixels))
    # Beside the output: a temporary folder of the system may be in memory, or smaller.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".tiler-demo-") as folder:
        latents = Path(folder) / "latents.npy"
        with _nothing_is_kept(), show("Encoding") as progress:
            # An encoder's tiles repeat much work at their margins, and a demo wants to be quick.
            encoded = encode(picture, latents, weights=_WEIGHTS, progress=progress)
        with _nothing_is_kept() if overwrite else nullcontext(), show("Decoding") as progress:
            # The picture is always the same, so that a demo that was stopped goes on; unless it is to start over.
            decoded = decode(
                # As encode writes them: of a picture of 32 px, the axes could be read in two ways.
                Latents(latents, axes="BCHW"),
                output,
                weights=_WEIGHTS,
                overwrite=overwrite,
                resume=not overwrite,
                progress=progress,
            )
    return DemoReport(encoded, decoded, measure_psnr(output, picture))


@contextmanager
def _nothing_is_kept() -> Iterator[None]:
    """Take from an error what it says of finished tiles: the next run starts over."""
    try:
        yield
    except BaseException as error:
        error.__notes__ = []
        raise


def choose_shape(megapixels: float) -> tuple[int, int]:
    """Return (height, width) of a 3:2 picture of about so many million pixels, multiples of 8 px.

    Raises:
        OptionError: ``megapixels`` is not a positive number, or too large.
    """
    if not 0 < megapixels <= MOST_MEGAPIXELS:
        raise OptionError(f"No such size: megapixels={megapixels}. Use a number above 0, at most {MOST_MEGAPIXELS:g}.")
    height = math.sqrt(megapixels * 1e6 / 1.5)
    return max(round(height / 8), 1) * 8, max(round(height * 1.5 / 8), 1) * 8


def measure_psnr(image: Path, picture: Readable) -> float:
    """Return the peak signal-to-noise ratio in dB of a tiled TIFF against a source, one file tile after another."""
    from tifffile import TiffFile

    squared_error = 0.0
    with TiffFile(image) as tiff:
        page = tiff.pages.first
        phase = Phase("Comparing", len(page.dataoffsets), "file tiles")
        for pixels, (_, _, row, column, _), (_, height, width, _) in page.segments():
            # Tiles at the far edges are padded to their full size.
            rows = Span(row, min(row + height, page.imagelength))
            columns = Span(column, min(column + width, page.imagewidth))
            error = pixels[0, : len(rows), : len(columns)] / np.float32(255) - picture.read(Window(rows, columns))
            squared_error += float(np.square(error, dtype=np.float64).sum())
            phase.count(len(rows) * len(columns))
    mean = squared_error / math.prod(picture.shape)
    return 10 * math.log10(1 / mean) if mean else math.inf
