"""Whether all passes of a progressive JPEG are there, which its decoder does not ask.

Each pass brings some of the 64 frequencies of some components, down to some bit; a file that is cut between two of
them, and closed, is a blurred picture.
Source: ITU-T T.81, B.2 (markers), G.1.1 (passes).
"""

from pathlib import Path

from tiler.sources.input_file import open_regular_file

START_OF_SCAN, END = 0xDA, 0xD9
PROGRESSIVE = (0xC2, 0xCA)
"""Markers of frames in passes: Huffman's code, and arithmetic."""
ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a length behind them."""
UNSENT = 99
"""In place of the lowest bit of a frequency that no pass brings."""


def lacks_passes(path: Path) -> bool:
    """Say whether a progressive JPEG ends before all of its frequencies are there, down to the last bit."""
    with open(open_regular_file(path), "rb") as file:
        content = file.read()
    lowest: dict[int, list[int]] = {}
    position = 2
    while (position := content.find(b"\xff", position)) != -1 and position + 4 < len(content):
        marker = content[position + 1]
        if marker in (0x00, 0xFF, *ALONE):
            position += 1 if marker == 0xFF else 2
            continue
        if marker == END:
            break
        start = position + 4
        position += 2 + int.from_bytes(content[position + 2 : start])
        header = content[start:position]
        if marker in PROGRESSIVE and len(header) > 5:
            lowest = {header[6 + 3 * number]: [UNSENT] * 64 for number in range((len(header) - 6) // 3)}
        elif marker == START_OF_SCAN and len(header) >= 4:
            first, last, bits = header[-3:]
            for component in header[1:-3:2]:
                if component in lowest:
                    lowest[component][first : last + 1] = [bits & 15] * (min(last, 63) + 1 - first)
    return bool(lowest) and any(max(bits) > 0 for bits in lowest.values())
