"""What every shape is to be read as, written by hand: for weights of 4, 16, 32 channels and formats of each order."""

import itertools

from taesd_core.variants import VARIANTS

SIZES = (1, 3, 4, 8, 16, 32, 48, 64, 128, 129)
CHANNELS = sorted({variant.channels for variant in VARIANTS.values()})
ORDERS = (None, "always", "usually")
COLUMNS = [(channels, first) for channels in (4, 16, 32) for first in ORDERS]

# What an axis holds: C as many as there are channels, 4C four times as many, x anything else. Then for weights of 4, 16
# and 32 channels, in each: a format without an order, one with the channels always first, one with them usually first.
THREE_AXES = """
C  *  x   CHW  CHW  CHW    CHW     CHW     CHW       CHW     CHW     CHW
x  *  C   HWC  no   HWC    HWC     no      HWC       HWC     no      HWC
C  *  C   ask  CHW  CHW    ask     CHW     CHW       ask     CHW     CHW
x  *  x   no   no   no     no      no      no        no      no      no
C  *  4C  CHW  CHW  CHW    ask     ask     ask       ask     ask     ask
x  *  4C  no   no   no     packed  packed  packed    packed  packed  packed
4C *  x   no   no   no     no      no      no        packed  packed  packed
4C *  C   HWC  no   HWC    HWC     no      HWC       ask     packed  packed
4C *  4C  no   no   no     packed  packed  packed    ask     ask     ask
"""
FOUR_AXES = """
x C  * x  BCHW BCHW BCHW   BCHW    BCHW    BCHW      BCHW    BCHW    BCHW
x x  * C  BHWC no   BHWC   BHWC    no      BHWC      BHWC    no      BHWC
x C  * C  ask  BCHW BCHW   ask     BCHW    BCHW      ask     BCHW    BCHW
x x  * x  no   no   no     no      no      no        no      no      no
x 4C * x  no   no   no     no      no      no        packed  packed  packed
x 4C * C  BHWC no   BHWC   BHWC    no      BHWC      ask     packed  packed
C x  * x  no   no   no     frames  frames  frames    frames  frames  frames
C C  * x  BCHW BCHW BCHW   ask     ask     ask       ask     ask     ask
C x  * C  BHWC no   BHWC   ask     frames  frames    ask     frames  frames
C C  * C  ask  BCHW BCHW   ask     ask     ask       ask     ask     ask
C 4C * x  no   no   no     frames  frames  frames    ask     ask     ask
C 4C * C  BHWC no   BHWC   ask     frames  frames    ask     ask     ask
"""
FIVE_AXES = """
* C x * x  frames
* x C * x  frames
* C C * x  ask
* x x * x  no
* x x * C  frames no     frames
* C x * C  ask    frames frames
* x C * C  ask    frames frames
* C C * C  ask
"""


def parse_table(text, n_axes):
    """Return what is right by what the axes hold, all of them spelt out, and by column."""
    rows, table = [line.split() for line in text.strip().splitlines()], {}
    for row in rows:
        found = row[n_axes:] * (9 // len(row[n_axes:]))
        kinds = []
        for axis, kind in enumerate(row[:n_axes]):
            # Where no row tells 4C from others, it is one of the others.
            others = ["x"] if any(each[axis] == "4C" for each in rows) else ["x", "4C"]
            kinds.append({"*": ["C", "4C", "x"], "x": others}.get(kind, [kind]))
        for each in itertools.product(*kinds):
            assert each not in table
            table[each] = dict(zip(COLUMNS, found, strict=True))
    return table


def look_up(shape, channels, first):
    """Return what the table says of a shape; 3 channels, as of pictures, are as simple as 4."""
    kinds = {channels: "C", 4 * channels: "4C"}
    return TABLES[len(shape)][tuple(kinds.get(size, "x") for size in shape)][max(channels, 4), first]


TABLES = {3: parse_table(THREE_AXES, 3), 4: parse_table(FOUR_AXES, 4), 5: parse_table(FIVE_AXES, 5)}
