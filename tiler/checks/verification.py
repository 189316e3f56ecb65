"""Whether a file holds what its latents decode to: three looks, none through the code that wrote it.

1. What the file says of itself: shape, number type, number of levels.
2. Some windows, or all, decoded again in another way: ``tiler.checks.window_check``.
3. Every tile of every reduced level against the level below: ``tiler.checks.level_check``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiler.checks.level_check import LevelCheck, check_level, list_tiles
from tiler.checks.sampling import choose_windows, cover
from tiler.checks.window_check import Reference, WindowCheck, check_window
from tiler.dtypes import UNITS
from tiler.formats.written import WrittenImage
from tiler.model import Network
from tiler.phase import LOG, Phase, say_count
from tiler.pyramid import level_shapes
from tiler.sources.source import Source
from tiler.window import Window

Samples = int | Literal["all"]
"""How many windows to decode again, or all that there are."""

SAMPLE_PX = 256
"""Side of a sampled window, px of the image."""
COVER_PX = 512
"""Side of the windows that cover the image. About 180 px around each are decoded for nothing, so larger is cheaper."""
SEAM_PX = 1024
"""Distance of likely seams where the file has no tiles: the tile of ``decode``."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What is known of a file after a look at it."""

    path: Path
    """The file."""
    problems: tuple[str, ...] = ()
    """What is wrong with the file as a whole; with any, nothing further was compared."""
    windows: tuple[WindowCheck, ...] = ()
    """The windows that were decoded again."""
    levels: tuple[LevelCheck, ...] = ()
    """The reduced levels, each compared with the level below."""
    axes: str | None = None
    """Axes of the latents, where nobody said them and the file notes them."""
    notes: tuple[str, ...] = ()
    """What is to be said of the latents."""

    @property
    def ok(self) -> bool:
        """Whether nothing is off."""
        return not self.problems and all(check.ok for check in self._checks)

    @property
    def max_difference(self) -> float:
        """Largest |Δ| of all windows, of 255."""
        return max((each.max_difference for each in self.windows), default=0)

    @property
    def share_different(self) -> float:
        """Share of differing samples over all windows."""
        return sum(each.n_different for each in self.windows) / max(sum(each.n_samples for each in self.windows), 1)

    @property
    def lines(self) -> list[str]:
        """A line for each problem, window and level; what is off says so."""
        return [
            *([f"ok   latents read as {self.axes}, which the file notes"] if self.axes else []),
            *(f"note {note}" for note in self.notes),
            *(f"OFF  {problem}" for problem in self.problems),
            *(f"{'ok ' if check.ok else 'OFF'}  {check}" for check in self._checks),
        ]

    @property
    def _checks(self) -> tuple[WindowCheck | LevelCheck, ...]:
        return self.windows + self.levels

    @property
    def verdict(self) -> str:
        """All of it in one line."""
        noted = f"; latents read as {self.axes}, which the file notes" if self.axes else ""
        noted += "".join(f"; {note}" for note in self.notes)
        if not self.ok:
            first, *more = [line[5:] for line in self.lines if line.startswith("OFF")]
            others = f" (and {len(more)} more)" if more else ""
            return (
                f"The file is not what the latents decode to: path={self.path}, {first}{others}{noted}. Decode again."
            )
        windows = "1 window" if len(self.windows) == 1 else f"{len(self.windows)} windows"
        levels = f"; {len(self.levels) + 1} levels fit each other" if self.levels else ""
        return (
            f"{self.path} is what the latents decode to: in {windows} max |Δ| {self.max_difference:.3g}, "
            f"{self.share_different:.2g} of the samples differ{levels}{noted}"
        )


def verify_image(
    path: Path,
    image: WrittenImage,
    source: Source,
    network: Network,
    load_reference: Callable[[], Reference],
    *,
    place: Window,
    samples: Samples,
    seed: int,
    progress: Callable[[int, int, int], None] | None = None,
) -> Verification:
    """Compare a file with its latents, a window at a time, and its levels with each other, a tile at a time.

    Args:
        path: what to call the file.
        image: the file.
        source: the latents.
        network: the geometry of the decoder.
        load_reference: gives the plain model.
        place: where the image lies in what the latents decode to, px.
        samples: how many windows to decode again, or "all" for windows that cover the image.
        seed: other windows for other seeds.
        progress: ``progress(n_done, n_all, n_px)``, called after each window and each tile.

    Raises:
        InputError: the latents hold NaN or Inf.
    """
    problems = find_problems(image, network, place)
    if problems:
        return Verification(path, problems)
    windows = list_windows(image, samples, seed)
    n_tiles = sum(len(list_tiles(image, level)) for level in range(1, len(image.levels)))
    n_all = len(windows) + n_tiles
    n_done = n_px = 0
    height, width = place.shape
    LOG.info(
        f"Verifying {path}: {height * width / 1e6:,.1f} megapixels, {say_count(n_tiles, 'tile')} of reduced levels, "
        f"{say_count(len(windows), 'window')} decoded again"
    )
    phase = Phase("Comparing levels", n_tiles, "tiles")

    def tell(window: Window) -> None:
        nonlocal n_done, n_px
        n_window_px = len(window.rows) * len(window.columns)
        n_done, n_px = n_done + 1, n_px + n_window_px
        phase.count(n_window_px)
        if progress is not None:
            progress(n_done, n_all, n_px)

    # The levels first: that is quick, and what is found there is found wherever it is.
    levels = tuple(check_level(image, level, tell) for level in range(1, len(image.levels)))
    reference = load_reference() if windows else None
    phase = Phase("Decoding again", len(windows), "windows")
    checked = []
    for window in windows:
        assert reference is not None
        checked.append(check_window(image, source, network, reference, window, place))
        tell(checked[-1].window)
    return Verification(path, windows=tuple(checked), levels=levels)


def find_problems(image: WrittenImage, network: Network, place: Window) -> tuple[str, ...]:
    """Return what is wrong with shape, number type and number of levels."""
    height, width = place.shape
    expected = (height, width, network.channels_out)
    if image.levels[0] != expected:
        return (f"shape={image.levels[0]}, but the latents decode to {expected}",)
    if image.dtype.name not in UNITS:
        return (f"dtype={image.dtype}, not one of {', '.join(UNITS)}",)
    pyramid = [(*shape, network.channels_out) for shape in level_shapes(height, width, image.file_tile_px or 1)]
    if image.levels not in ([expected], pyramid):
        return (f"levels={len(image.levels)}: {image.levels}, but a pyramid would have {len(pyramid)}: {pyramid}",)
    return ()


def list_windows(image: WrittenImage, samples: Samples, seed: int) -> list[Window]:
    """Return the windows to decode again, px."""
    height, width = image.levels[0][:2]
    if samples == "all":
        return cover(height, width, COVER_PX)
    return choose_windows(height, width, SAMPLE_PX, samples, seam=image.file_tile_px or SEAM_PX, seed=seed)
