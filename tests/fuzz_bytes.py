"""Mutations that know nothing of a format: flips, cuts, insertions, splices."""

from random import Random

Mutated = tuple[bytes, str]
"""What became of a file, and what was done to it."""


class UnreadableError(Exception):
    """No other reader reads a file without complaint, or it says more than is looked at."""


def flip(random: Random, content: bytes, start: int = 0, stop: int | None = None) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        position = random.randrange(start, len(changed) if stop is None else stop)
        changed[position] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(random: Random, content: bytes) -> bytes:
    position, length = random.randrange(len(content)), random.choice((1, 2, 4, 8))
    value = random.choice((b"\0", b"\xff", b"\x7f", b"\x80", random.randbytes(1)))
    return content[:position] + (value * length)[: len(content) - position] + content[position + length :]


def truncate(random: Random, content: bytes) -> bytes:
    return content[: random.choice((0, 1, 6, 8, 10, len(content) - 1, random.randrange(len(content))))]


def append(random: Random, content: bytes) -> bytes:
    return content + random.choice((b"\0", content, random.randbytes(random.randrange(1, 200))))


def insert(random: Random, content: bytes) -> bytes:
    position = random.randrange(len(content))
    return content[:position] + random.randbytes(random.choice((1, 2, 8, 100))) + content[position:]


def cut_out(random: Random, content: bytes) -> bytes:
    position = random.randrange(len(content))
    return content[:position] + content[position + random.choice((1, 2, 8, 100)) :]


def repeat(random: Random, content: bytes) -> bytes:
    start = random.randrange(len(content))
    stop = min(start + random.choice((1, 8, 100)), len(content))
    return content[:stop] + content[start:stop] * random.choice((1, 2, 50)) + content[stop:]


def splice(random: Random, content: bytes, other: bytes) -> bytes:
    return content[: random.randrange(len(content))] + other[random.randrange(len(other)) :]


def mutate_bytes(random: Random, content: bytes, other: bytes, header_bytes: int) -> Mutated:
    """Mutate anything anywhere, the first ``header_bytes`` more often than the rest."""
    if random.random() < 0.1:
        return splice(random, content, other), "splice"
    change = random.choice((flip, flip, overwrite, truncate, append, insert, cut_out, repeat))
    if change not in (truncate, append) and random.random() < 0.7:
        return change(random, content[:header_bytes]) + content[header_bytes:], f"{change.__name__} header"
    return change(random, content), change.__name__
