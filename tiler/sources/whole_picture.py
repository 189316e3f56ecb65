"""How large pictures may be that are held in memory while they are read, and how much a file can hold at all."""

from pathlib import Path

from tiler.errors import InputError

LIMIT_PX = 2**28
"""Largest picture that is loaded, as 16,384 by 16,384."""
FLAT_LIMIT_PX = 2**25
"""Largest picture that is loaded whatever its file takes: 300 MB while it is."""
LIMIT_PX_A_BYTE = 100
"""Most pixels a byte of the file in a larger one. A photograph has 0.3 to 20, a bomb of zeros 250 or more."""

HELD_ROWS = 64
"""Rows that libvips holds of a picture that comes from top to bottom."""
INFLATED_BYTES_A_BYTE = 1032
"""What a byte of deflate can stand for at most: 258 bytes by two bits. Source: RFC 1951, 3.2.5."""


def check_size(width: int, height: int, path: Path) -> None:
    """Refuse a picture that is larger than what is loaded whole, or far larger than its file.

    Raises:
        InputError: it is.
    """
    n_px, size_bytes = width * height, path.stat().st_size
    if n_px > LIMIT_PX:
        raise InputError(
            f"Image too large to load at once: path={path}, image={width} × {height} px, limit={LIMIT_PX} px. Save it "
            "as a PNG that is not interlaced, a tiled TIFF, or a .npy file of uint8 (height, width, 3)."
        )
    if n_px > max(FLAT_LIMIT_PX, LIMIT_PX_A_BYTE * size_bytes):
        raise InputError(
            f"Image far larger than its file: path={path}, image={n_px} px, file={size_bytes} bytes. Above "
            f"{FLAT_LIMIT_PX} px it must be at most {LIMIT_PX_A_BYTE} px a byte. Save it as a PNG, not interlaced."
        )
