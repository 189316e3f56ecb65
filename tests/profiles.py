"""ICC profiles for tests, built tag by tag: none of it goes through the code that reads them."""

import struct

import numpy as np

SRGB = ((0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045), (0.1430804, 0.0606169, 0.7141733))
"""XYZ under D50 of red, green and blue. Source: B. Lindbloom's tables, adapted by Bradford's matrix."""
FIRST_SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
"""The same in the profile that HP and Microsoft published, which most files of sRGB carry."""
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
EXCHANGED = (SRGB[1], SRGB[0], SRGB[2])
"""sRGB with red and green exchanged."""
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00008, 0.82491))


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def xyz(values):
    return b"XYZ \0\0\0\0" + fixed(*values)


def curve(*entries):
    """A table of 16-bit entries; one is a gamma in 1/256, none is a line."""
    return b"curv\0\0\0\0" + struct.pack(f">I{len(entries)}H", len(entries), *entries)


def parametric(kind, *parameters):
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(*parameters)


def gamma(value):
    return curve(round(value * 256))


SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def sampled(function, n=1024):
    return curve(*np.rint(65535 * function(np.linspace(0, 1, n))).astype(int).tolist())


def build(tags, *, space=b"RGB ", pcs=b"XYZ ", kind=b"mntr", name="of a test"):
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz((0.9642, 1, 0.8249)),
        **tags,
    }
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for signature, content in tags.items():
        table += struct.pack(">4sII", signature, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249) + bytes(48)
    return head + table + body


def rgb(primaries=SRGB, curves=SRGB_CURVE, **said):
    curves = curves if isinstance(curves, tuple) else (curves,) * 3
    tags = {f"{c}XYZ".encode(): xyz(p) for c, p in zip("rgb", primaries, strict=True)}
    return build({**tags, **{f"{c}TRC".encode(): each for c, each in zip("rgb", curves, strict=True)}}, **said)


def grey(its_curve, **said):
    return build({b"kTRC": its_curve}, space=b"GRAY", **said)


def tables(space, to_lab, n_grid=9):
    """Return a profile with one table from colours in [0, 1] to L*, a*, b*, in 16 bits."""
    n = {b"CMYK": 4, b"RGB ": 3, b"GRAY": 1}[space]
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, n_grid)] * n, indexing="ij"), axis=-1).reshape(-1, n)
    lab = to_lab(grid)
    # Version 2: L* 0 to 100 is 0 to 0xFF00, a* and b* -128 to 127 + 255 / 256.
    coded = np.stack([lab[:, 0] / 100 * 0xFF00, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], axis=-1)
    line = struct.pack(">2H", 0, 65535)
    content = b"mft2\0\0\0\0" + struct.pack("BBBx", n, 3, n_grid) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    content += struct.pack(">2H", 2, 2) + line * n
    content += np.clip(np.rint(coded), 0, 65535).astype(">u2").tobytes() + line * 3
    return build({b"A2B0": content, b"A2B1": content}, space=space, pcs=b"Lab ", kind=b"prtr")


def inks_to_lab(inks):
    """What four inks give, about: light passes each of them; in L*, a*, b*."""
    cyan, magenta, yellow, black = inks.T
    red, green, blue = ((1 - each) * (1 - black) for each in (cyan, magenta, yellow))
    lightness = 100 * (0.3 * red + 0.59 * green + 0.11 * blue)
    return np.stack([lightness, 60 * (red - green), 60 * (0.5 * (red + green) - blue)], axis=-1)
