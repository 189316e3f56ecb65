"""What the axes of an array can be, and which of it is meant.

Each axis has a letter, see ``tiler.sources.axes``. This order of who decides holds for every kind of input:

1. what is said, ``--axes``, unless the file names other axes: that is refused;
2. the axes that the file names: a TIFF's samples, Zarr's dimension names, xarray's dims, each as far as it goes;
3. the order that files of its format always have, or usually: channels first;
4. the only reading that has as many channels as the decoder takes. What other networks could make of the shape does
   not count: the weights have decided that.

Where several readings are left, nobody guesses: it is asked. Packed latents and frames are known as readings, so that
they are never taken for a map, and refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tiler.errors import AxesError, AxesQuestion, Option
from tiler.sources.axes import parse_axes

ChannelsFirst = Literal["always", "usually"]
"""Whether the maps of a format have the channels before rows and columns: always, or where both orders fit."""

_ORDERS = {
    "map": ("CHW", "HWC", "BCHW", "BHWC"),
    "packed": ("BSC", "CHW", "BCHW"),
    "frames": ("CTHW", "BCTHW", "BTCHW", "BTHWC"),
}
PACKED_SEQUENCES = (16, 32)
"""Channels of latents that pipelines hand out packed: 2 × 2 of them as one of four times as many channels."""
PACKED_MAPS = (32,)
"""Likewise where rows and columns stay, as ComfyUI keeps FLUX.2's."""
VIDEO_CHANNELS = 16
"""Fewest channels of a video without a batch axis; with fewer, the first axis is a batch."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that an array may be."""

    axes: str
    """A letter for each axis."""
    kind: Literal["map", "packed", "frames"]
    """Only maps are decoded."""

    def describe(self, shape: Sequence[int]) -> str:
        """Return it in words."""
        size = dict(zip(self.axes, shape, strict=True))
        if self.kind == "frames":
            frames = "one frame" if size["T"] == 1 else f"{size['T']} frames"
            return f"{self.axes}, {frames} of {size['H']} × {size['W']}"
        if self.kind == "map":
            return f"{self.axes}, a map of {size['H']} × {size['W']}"
        if "S" in self.axes:
            return f"{self.axes}, packed latents, {size['B']} of {size['S']} places of 2 × 2"
        return f"{self.axes}, FLUX.2's latents packed 2 × 2, a map of {2 * size['H']} × {2 * size['W']}"


def list_readings(shape: Sequence[int], channels: int) -> list[Reading]:
    """Return all that an array of this shape may be, if latents have so many channels."""

    def fits(axes: str, kind: str) -> bool:
        if kind == "packed" and channels not in (PACKED_SEQUENCES if "S" in axes else PACKED_MAPS):
            return False
        if axes == "CTHW" and channels < VIDEO_CHANNELS:
            return False
        return len(axes) == len(shape) and shape[axes.index("C")] == channels * (4 if kind == "packed" else 1)

    return [Reading(axes, kind) for kind, orders in _ORDERS.items() for axes in orders if fits(axes, kind)]  # type: ignore[arg-type]


def choose_axes(
    shape: tuple[int, ...],
    channels: int,
    *,
    name: str,
    said: str | None = None,
    named: str | None = None,
    first: ChannelsFirst | None = None,
    picture: bool = False,
) -> str:
    """Return the axes of an array that holds maps, a letter each; B is a batch.

    Args:
        shape: of the array, three axes or more, no axis empty.
        channels: how many there must be.
        name: what to call the array in a message.
        said: the axes that the user says.
        named: the axes that the file names, "?" for those that it does not.
        first: whether files of this format have the channels first.
        picture: whether it is a picture, and not latents.

    Raises:
        AxesQuestion: there are several readings; the message names them.
        AxesError: there is none, it is none of a map, or what was said is something else than the file says.
        OptionError: what was said are no axes.
    """
    what = f"{name}, shape={shape}"
    axes = None if said is None else parse_axes(said)
    if axes is not None and len(axes) != len(shape):
        raise AxesError(
            f"Other axes than were said: {what}, axes={len(shape)}, said={said}, which are {len(axes)}. "
            "Name each axis of the array."
        )
    named = None if named is None or len(named) != len(shape) else _complete(named)
    if axes is not None and named is not None and not _agree(axes, named):
        raise AxesError(
            f"The file names other axes: {what}, axes={named}, said={said}. Leave {Option('axes')} out, or mend the "
            f"file."
        )
    readings = list_readings(shape, channels)
    if axes is not None:
        return _check_axes(axes, readings, shape, channels, what)
    if named is not None and set("CHW") <= set(named):
        axes = named if "B" in named else named.replace("?", "B", 1)
        return _check_axes(axes, readings, shape, channels, f"{what}, as the file names its axes")
    if named is not None:
        readings = [each for each in readings if _agree(each.axes, named)]
    readings = _prefer_first(readings, first)
    if not readings:
        raise refuse_shape(shape, channels, name, first=first, picture=picture)
    if len(readings) > 1:
        several = "; or ".join(each.describe(shape) for each in readings)
        maps = " or ".join(f"{Option('axes', each.axes)}" for each in readings)
        raise AxesQuestion(
            f"It can be read in {len(readings)} ways: {what}, channels={channels}: {several}. Say which: {maps}."
        )
    if readings[0].kind == "packed":
        raise _refuse_packed(readings[0], shape, channels, what)
    if readings[0].kind == "frames":
        raise _refuse_frames(readings[0], shape, what)
    return readings[0].axes


def _check_axes(axes: str, readings: list[Reading], shape: Sequence[int], channels: int, what: str) -> str:
    """Return axes that were said or named, if those are of one map in ``shape``."""
    for each in readings:
        if each.axes == axes and each.kind == "packed":
            raise _refuse_packed(each, shape, channels, what)
    size = dict(zip(axes, shape, strict=True))
    if size["C"] != channels or "S" in size:
        raise AxesError(
            f"Wrong number of channels: {what}, axes={axes}, channels={size['C']}, expected channels={channels}. "
            "Choose weights of so many channels, or say other axes."
        )
    if size.get("T", 1) > 1:
        raise _refuse_frames(Reading(axes, "frames"), shape, what)
    if any(letter == "?" and length > 1 for letter, length in zip(axes, shape, strict=True)):
        raise AxesError(f"Axes of which one is unknown: {what}, axes={axes}. Save the array of one map.")
    return axes


def _complete(named: str) -> str:
    """Return the axes that a file names, and what follows from them: beside rows and columns a single one is left."""
    return named.replace("?", "C") if named.count("?") == 1 and "C" not in named else named


def _agree(axes: str, named: str) -> bool:
    return all(theirs in ("?", ours) for ours, theirs in zip(axes, named, strict=True))


def _prefer_first(readings: list[Reading], first: ChannelsFirst | None) -> list[Reading]:
    """Return the readings that a format's order of axes leaves."""
    in_order = [each for each in readings if each.axes in ("BSC", "CTHW") or not each.axes.endswith("C")]
    settled = [each for each in in_order if each.axes != "BSC"]
    return in_order if first == "always" or (first == "usually" and settled) else readings


def refuse_shape(
    shape: tuple[int, ...], channels: int, name: str, *, first: ChannelsFirst | None = None, picture: bool = False
) -> AxesError:
    """Return why an array of this shape holds no map of so many channels."""
    said = f"{name}, shape={shape}" if len(shape) <= 5 else name
    if len(shape) not in (3, 4):
        wrong = f"Wrong number of axes: {said}, axes={len(shape)}"
    else:
        wrong = f"Wrong number of channels: {said}, expected channels={channels}"
    expected = f"(1, {channels}, h, w) or ({channels}, h, w)"
    if first != "always":
        expected = f"(1, {channels}, h, w), ({channels}, h, w), (h, w, {channels}) or (1, h, w, {channels})"
    return AxesError(f"{wrong}. The shape must be {expected}. {_advise(shape, channels, first, picture=picture)}")


def _advise(shape: tuple[int, ...], channels: int, first: ChannelsFirst | None, *, picture: bool) -> str:
    if picture and len(shape) == 2:
        return "Of grey make RGB: numpy.dstack([image] * 3)."
    if picture and len(shape) in (3, 4) and shape[-1] == 4:
        return "Four channels look like RGBA: put it on its background, or leave the alpha out: image[..., :3]."
    if picture and len(shape) in (3, 4) and shape[-1] <= 2:
        return "Of grey make RGB: numpy.repeat(image[..., :1], 3, axis=-1)."
    if len(shape) not in (3, 4):
        return "Reshape it."
    if first == "always":
        # Such a file has the channels first; but who wrote it may know better.
        last = f", or say {Option('axes', 'HWC' if len(shape) == 3 else 'BHWC')}" * (shape[-1] == channels)
        return f"Choose weights for {shape[-3]} channels{last}."
    return "Transpose it" + ("." if picture else ", or choose a variant of so many channels.")


def _refuse_packed(reading: Reading, shape: Sequence[int], channels: int, what: str) -> AxesError:
    size = dict(zip(reading.axes, shape, strict=True))
    if "S" in reading.axes:
        how = (
            f"z.reshape(-1, h // 2, w // 2, {channels}, 2, 2).transpose(0, 3, 1, 4, 2, 5)"
            f".reshape(-1, {channels}, h, w), h and w being those of the picture in px / 8"
        )
    else:
        height, width = size["H"], size["W"]
        how = (
            f"z.reshape(-1, {channels}, 2, 2, {height}, {width}).transpose(0, 1, 4, 2, 5, 3)"
            f".reshape(-1, {channels}, {2 * height}, {2 * width})"
        )
    return AxesError(f"Packed latents: {what}, expected channels={channels}. Unpack them first, in NumPy: {how}.")


def _refuse_frames(reading: Reading, shape: Sequence[int], what: str) -> AxesError:
    advice = "To decode one, save it without the axis of frames."
    if shape[reading.axes.index("T")] == 1:
        advice = f"If it is one, say {Option('axes', reading.axes)}."
    return AxesError(
        f"Not a single picture: {what}, axes={len(shape)}. It looks like {reading.describe(shape)}. {advice}"
    )
