"""Mutated PNG files, and a reader of PNG that shares nothing with the one under test."""

import struct
import zlib
from random import Random

import numpy as np
from fuzz_bytes import Mutated, UnreadableError, flip, mutate_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16)]
KINDS += [(6, 8), (6, 16)]
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
"""Of Adam7: first x and y, steps of x and y."""
BOMB = zlib.compress(bytes(300_000_000), 9)
NAMES = b"iCCP zTXt tEXt iTXt eXIf tRNS PLTE gAMA cHRM sRGB pHYs tIME bKGD sBIT acTL fcTL fdAT IHDR IDAT IEND CgBI oFFs"
Chunk = tuple[bytes, bytes]


def to_bytes(chunks: list[Chunk]) -> bytes:
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return SIGNATURE + b"".join(parts)


def sizes_of_passes(width: int, height: int, interlace: int) -> list[tuple[int, int, int, int, int, int]]:
    """Return (columns, rows, x, y, step of x, step of y) of each pass that is not empty."""
    passes = PASSES if interlace else [(0, 0, 1, 1)]
    found = [(len(range(x, width, dx)), len(range(y, height, dy)), x, y, dx, dy) for x, y, dx, dy in passes]
    return [each for each in found if each[0] and each[1]]


def make_chunks(random: Random, latents: bool) -> list[Chunk]:
    colour, bits = (6, 8) if latents and random.random() < 0.9 else random.choice(KINDS)
    width, height = random.randint(1, 17), random.randint(1, 17)
    interlace = int(random.random() < 0.25)
    raw = make_raw(random, width, height, bits * CHANNELS[colour], interlace)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))]
    if colour == 3:
        chunks.append((b"PLTE", random.randbytes(3 * 2**bits)))
    return [*chunks, (b"IDAT", zlib.compress(raw, random.choice((0, 1, 9)))), (b"IEND", b"")]


def make_raw(random: Random, width: int, height: int, bits: int, interlace: int) -> bytes:
    rows = []
    for columns, n_rows, *_ in sizes_of_passes(width, height, interlace):
        row_bytes = -(-columns * bits // 8)
        rows += [bytes([random.randrange(5)]) + random.randbytes(row_bytes) for _ in range(n_rows)]
    return b"".join(rows)


def make_png(random: Random, latents: bool) -> Mutated:
    chunks = make_chunks(random, latents)
    kind = random.random()
    if kind > 0.995:
        bomb(random, chunks, latents)
        return to_bytes(chunks), "bomb"
    if kind < 0.05:
        return to_bytes(chunks), "none"
    if kind < 0.3:
        other = to_bytes(make_chunks(random, latents))
        return mutate_bytes(random, to_bytes(chunks), other, 57 if random.random() < 0.5 else 10**9)
    labels = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        edit = random.choice(EDITS)
        edit(random, chunks)
        labels.append(edit.__name__)
    return to_bytes(chunks), " ".join(labels)


def find(chunks: list[Chunk], name: bytes) -> int:
    return next((number for number, chunk in enumerate(chunks) if chunk[0] == name), 0)


def edit_size(random: Random, chunks: list[Chunk]) -> None:
    number = find(chunks, b"IHDR")
    name, content = chunks[number]
    sizes = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 40_000, 16_384, 5_000, random.randint(1, 20), random.randint(1, 20))
    at = random.choice((0, 4))
    chunks[number] = name, content[:at] + struct.pack(">I", random.choice(sizes)) + content[at + 4 :]


def edit_kind(random: Random, chunks: list[Chunk]) -> None:
    number = find(chunks, b"IHDR")
    name, content = chunks[number]
    at = random.randrange(8, 13)
    value = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    chunks[number] = name, content[:at] + bytes([value]) + content[at + 1 :]


def edit_pixels(random: Random, chunks: list[Chunk]) -> None:
    number = find(chunks, b"IDAT")
    name, content = chunks[number]
    try:
        raw = zlib.decompressobj().decompress(content, 100_000)
    except zlib.error:
        raw = b"\0"
    match random.randrange(9):
        case 0:
            content = zlib.compress(flip(random, raw or b"\0"))
        case 1:
            content = zlib.compress(raw[: random.randrange(len(raw) + 1)])
        case 2:
            content = zlib.compress(raw + random.randbytes(random.choice((1, 10, 1000))))
        case 3:
            content = content[: random.randrange(len(content) + 1)]
        case 4:
            content = flip(random, content or b"\0")
        case 5:
            content = content[:-4] + random.randbytes(4)
        case 6:
            content = BOMB
        case 7:
            content = content + random.choice((content, b"\0", random.randbytes(50)))
        case 8:
            content = random.choice((b"", zlib.compress(b""), raw))
    chunks[number] = name, content


def bomb(random: Random, chunks: list[Chunk], latents: bool) -> None:
    """A size up to our limit, and so many bytes of pixels, or a third of them, that take hardly any in the file."""
    number = find(chunks, b"IHDR")
    name, content = chunks[number]
    # Of a picture nothing but the disk is a limit: all of it is inflated.
    side = random.choice((3_000, 5_000, 5_700, 8_000, 16_384) if latents else (2_000, 3_000))
    chunks[number] = name, struct.pack(">II", side, side) + content[8:]
    number = find(chunks, b"IDAT")
    chunks[number] = b"IDAT", BOMB


def edit_filter(random: Random, chunks: list[Chunk]) -> None:
    number = find(chunks, b"IDAT")
    name, content = chunks[number]
    try:
        raw = zlib.decompressobj().decompress(content, 100_000)
    except zlib.error:
        raw = b"\0"
    chunks[number] = name, zlib.compress(bytes([random.choice((0, 1, 2, 3, 4, 5, 255))]) + raw[1:])


def split_pixels(random: Random, chunks: list[Chunk]) -> None:
    number = find(chunks, b"IDAT")
    name, content = chunks[number]
    cut = random.randrange(len(content) + 1)
    between = [] if random.random() < 0.7 else [(random.choice(NAMES.split()), random.randbytes(3))]
    chunks[number : number + 1] = [(name, content[:cut]), *between, (name, content[cut:])]


def move(random: Random, chunks: list[Chunk]) -> None:
    match random.randrange(3):
        case 0:
            random.shuffle(chunks)
        case 1:
            chunks.insert(random.randrange(len(chunks) + 1), random.choice(chunks))
        case 2:
            del chunks[random.randrange(len(chunks))]
    chunks[:] = chunks or [(b"IEND", b"")]


def add_harmless(random: Random, chunks: list[Chunk]) -> None:
    known = [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"tEXt", b"Comment\0one"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x")),
    ]
    known += [(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)), (b"sRGB", b"\0"), (b"prVt", random.randbytes(30))]
    chunks.insert(1, random.choice(known))


def add_chunk(random: Random, chunks: list[Chunk]) -> None:
    name = random.choice(NAMES.split())
    content = random.choice((b"", random.randbytes(random.choice((1, 4, 13, 26, 768))), bytes(26)))
    if name in (b"iCCP", b"zTXt") and random.random() < 0.7:
        content = b"name\0\0" + BOMB[: random.choice((1000, len(BOMB)))]
    elif name == b"iTXt" and random.random() < 0.7:
        content = b"name\0\1\0en\0name\0" + BOMB
    elif name == b"tEXt" and random.random() < 0.3:
        content = b"name\0" + bytes(3_000_000)
    elif name == b"acTL":
        content = struct.pack(">II", random.choice((0, 1, 2, 2**31)), 0)
    elif name == b"fcTL":
        sizes = [random.choice((0, 1, 4, 17, 2**31)) for _ in range(4)]
        content = struct.pack(">5IHHBB", 0, *sizes, 1, 1, random.randrange(4), random.randrange(3))
    elif name == b"eXIf":
        content = b"MM\0*" + random.choice((b"\0\0\0\x08", b"\xff\xff\xff\xff")) + random.randbytes(40)
    chunks.insert(random.randrange(len(chunks) + 1), (name, content))


EDITS = [edit_size, edit_kind, edit_pixels, edit_filter, split_pixels, move, add_harmless, add_chunk, add_chunk]


def read_png(content: bytes, *, taken_as_they_are: bool = True) -> np.ndarray:
    """Return (height, width, channels) samples as they are in the file, of uint8 or uint16; a palette is applied.

    Raises:
        ValueError: this is no PNG whose pixels everybody would read alike.
    """
    if content[:8] != SIGNATURE:
        raise ValueError("signature")
    position, chunks = 8, []
    while (not chunks or chunks[-1][0] != b"IEND") and position + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + 8 + length]
        # Behind the pixels nothing matters any more.
        if len(body) < length or (name != b"IEND" and content[position + 8 + length :][:4] != checksum(name, body)):
            if any(name == b"IDAT" for name, _ in chunks):
                break
            raise ValueError(f"checksum of {name!r}")
        chunks.append((name, body))
        position += 12 + length
    names = [name for name, _ in chunks]
    last = len(names) - names[::-1].index(b"IDAT")
    if names[:last].count(b"IHDR") != 1 or names.index(b"IHDR") > (first := names.index(b"IDAT")):
        raise ValueError("order")
    if not taken_as_they_are and {b"iCCP", b"gAMA", b"cHRM", b"cICP", b"tRNS", b"eXIf", b"sRGB"} & set(names[:first]):
        raise UnreadableError
    width, height, bits, colour, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", dict(chunks[:last])[b"IHDR"]
    )
    if (colour, bits) not in KINDS or compression or filtering or interlace > 1 or not 0 < width * height <= 50_000:
        raise ValueError("header")
    depth = bits * CHANNELS[colour]
    passes = sizes_of_passes(width, height, interlace)
    n_bytes = sum(n_rows * (1 + -(-columns * depth // 8)) for columns, n_rows, *_ in passes)
    stream = b"".join(body for name, body in chunks if name == b"IDAT")
    # As a bare stream: the checksum behind the pixels may be cut off.
    raw = zlib.decompressobj(-15).decompress(stream[2:], n_bytes)
    if len(raw) != n_bytes:
        raise ValueError(f"pixels: {len(raw)} of {n_bytes}")
    samples = np.zeros((height, width, CHANNELS[colour]), np.uint16)
    for columns, n_rows, x, y, dx, dy in passes:
        row_bytes = -(-columns * depth // 8)
        used, raw = raw[: n_rows * (1 + row_bytes)], raw[n_rows * (1 + row_bytes) :]
        rows = unpack(unfilter(used, n_rows, row_bytes, max(depth // 8, 1)), columns, bits, CHANNELS[colour])
        samples[y::dy, x::dx] = rows
    if colour == 3:
        palette = [body for name, body in chunks[:first] if name == b"PLTE"]
        if len(palette) != 1 or len(palette[0]) % 3 or not 0 < len(palette[0]) <= 768:
            raise ValueError("palette")
        colours = np.frombuffer(palette[0], np.uint8).reshape(-1, 3)
        # As Pillow and libpng have it.
        colours = np.concatenate([colours, np.zeros((256 - len(colours), 3), np.uint8)])
        return colours[samples[..., 0]]
    return samples if bits == 16 else (samples * (255 // (2**bits - 1))).astype(np.uint8)


def checksum(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(name + body))


def unfilter(raw: bytes, n_rows: int, row_bytes: int, step: int) -> np.ndarray:
    """Return (n_rows, row_bytes); ``step`` bytes to the left is the pixel before."""
    above = [0] * row_bytes
    rows = []
    for number in range(n_rows):
        start = number * (1 + row_bytes)
        kind, row = raw[start], list(raw[start + 1 : start + 1 + row_bytes])
        if kind > 4:
            raise ValueError("filter")
        for i in range(row_bytes):
            a, b, c = row[i - step] if i >= step else 0, above[i], above[i - step] if i >= step else 0
            p = a + b - c
            paeth = min(((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c)))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, paeth)[kind]) % 256
        rows.append(row)
        above = row
    return np.array(rows, np.uint8).reshape(n_rows, row_bytes)


def unpack(rows: np.ndarray, columns: int, bits: int, channels: int) -> np.ndarray:
    """Return (n_rows, columns, channels) samples."""
    if bits == 16:
        samples = rows.view(">u2")
    elif bits == 8:
        samples = rows
    else:
        singles = np.unpackbits(rows, axis=1).reshape(len(rows), -1, bits)
        samples = singles @ (1 << np.arange(bits)[::-1])
    return samples[:, : columns * channels].reshape(len(rows), columns, channels)


def to_rgb(samples: np.ndarray) -> np.ndarray:
    """Return the (height, width, 3) float32 in [0, 1] that an encoder is to be given: what is transparent, on white."""
    values = samples / np.iinfo(samples.dtype).max
    alpha = values[..., -1:] if samples.shape[2] in (2, 4) else 1
    colours = values[..., :1].repeat(3, axis=2) if samples.shape[2] <= 2 else values[..., :3]
    return (colours * alpha + 1 - alpha).astype(np.float32)
