"""In what order the rows of all maps are made. Pure integers.

Rows run through all steps a few at a time: a step makes its next rows as soon as the maps before it have what they
need, and a map forgets rows that no step will read again. So each row is made once, whatever the number of rows at a
time, and memory does not grow with the height of a window.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from taesd_core.kernels.geometry import SIDE, Reach, Shape


class Turn(NamedTuple):
    """Some rows of a map that are made at a time."""

    map: int
    """Which; 0 is the input."""
    first: int
    """Px of the map, a multiple of four."""
    last: int
    """Likewise."""


def plan_turns(
    shapes: Sequence[Shape], rows: Sequence[Reach], columns: Sequence[Reach], n_px: int
) -> tuple[list[Turn], list[int]]:
    """Return in what order rows are made, and how many rows each map must hold at a time.

    Args:
        shapes: of the steps.
        rows: what is made of each map.
        columns: likewise.
        n_px: about how many are made at a time of a map of the highest resolution; of others a quarter of that.
    """
    turns: list[Turn] = []
    made = [reach.start for reach in rows]
    held = [SIDE] * len(rows)
    widest = max(each.length for each in columns)
    usual = []
    for each in columns:
        n_strips = n_px / (1 if each.length > 0.75 * widest else 4) / each.length / SIDE
        usual.append(max(1, round(n_strips)) * SIDE)
    adding = {user - shape.skip: user + 1 for user, shape in enumerate(shapes) if shape.skip}

    def find_oldest(number: int) -> int:
        """Return the first row of a map that a step will still read."""
        oldest = made[number]
        if number < len(shapes) and made[number + 1] < rows[number + 1].stop:
            first = made[number + 1]
            if not shapes[number].in_tiles:
                first = max(first, rows[number + 1].begin)
            oldest = min(oldest, shapes[number].needs(first, first + 1)[0])
        if number in adding:
            oldest = min(oldest, made[adding[number]])
        return max(oldest, rows[number].start)

    def make(number: int, stop: int) -> None:
        """Make the rows of a map up to one."""
        while made[number] < stop:
            first = made[number]
            last = first + usual[number]
            if stop - first >= usual[number] // 2:
                # No more than is needed now, in equal turns: then the maps need to hold less.
                n_turns = ceil((stop - first) / usual[number])
                last = first + ceil((stop - first) / n_turns / SIDE) * SIDE
            last = min(last, rows[number].stop)
            if number:
                shape, out = shapes[number - 1], rows[number]
                needed = shape.needs(first, last if shape.in_tiles else max(min(last, out.end), first + 1))[1]
                make(number - 1, min(-(-needed // SIDE) * SIDE, rows[number - 1].stop))
            turns.append(Turn(number, first, last))
            held[number] = max(held[number], last - find_oldest(number) // SIDE * SIDE)
            made[number] = last

    make(len(rows) - 1, rows[-1].stop)
    return turns, held
