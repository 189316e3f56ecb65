"""A picture in another space of colours that is larger than the memory it is read in, compared with Little CMS."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import profiles
import pytest
import tifffile

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 8_000, 10_000
LIMIT_MB = 400
"""Of 240 MB of pixels, which are 480 MB when converted; strips that are decoded may stay, up to 256 MB."""

PROGRAM = """
import io, sys
import numpy as np
from PIL import Image, ImageCms
import pyvips
from tiler.sources.opening import open_image
from tiler.window import Span, Window
sys.path.insert(0, "tests")
import profiles
from test_large_picture import HEIGHT, WIDTH, make_part

to_srgb = ImageCms.buildTransform(
    ImageCms.ImageCmsProfile(io.BytesIO(profiles.rgb(getattr(profiles, sys.argv[2])))), ImageCms.createProfile("sRGB"),
    "RGB", "RGB", renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC)
source = open_image(sys.argv[1])
assert source.shape == (HEIGHT, WIDTH, 3)
# Not ru_maxrss: that is at least what the process had that started this one.
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before, worst = peak(), 0
for top in range(0, HEIGHT, 1024):
    for left in range(0, WIDTH, 1024):
        rows, columns = Span(top, min(top + 1024, HEIGHT)), Span(left, min(left + 1024, WIDTH))
        part = Image.fromarray(make_part(rows.slice, columns.slice))
        expected = np.asarray(ImageCms.applyTransform(part, to_srgb))
        worst = max(worst, np.abs(source.read(Window(rows, columns)) - expected / np.float32(255)).max())
print(worst * 255, peak() - before)
"""


def make_part(rows, columns):
    """A part of a picture of all colours."""
    y, x = np.arange(HEIGHT, dtype=np.uint16)[rows, None], np.arange(WIDTH, dtype=np.uint16)[None, columns]
    return np.stack([(x * 7 + y // 64) % 256, (x // 11 + y * 3) % 256, (x ^ y) % 256], axis=-1).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it says the peak memory of a process")
@pytest.mark.parametrize(
    ("stored", "primaries"), [("tiles", "DISPLAY_P3"), ("strips", "EXCHANGED"), ("plain strips", "DISPLAY_P3")]
)
def test_a_picture_larger_than_memory_is_converted_window_by_window(stored, primaries, tmp_path):
    pixels = make_part(slice(None), slice(None))
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb",
        compression=None if stored == "plain strips" else "zlib",
        compressionargs=None if stored == "plain strips" else {"level": 1},
        iccprofile=profiles.rgb(getattr(profiles, primaries)),
        **({"tile": (512, 512)} if stored == "tiles" else {"rowsperstrip": 16}),
    )
    del pixels
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a.tif"), primaries],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    worst, peak_mb = map(float, done.stdout.split())
    print(stored, worst, peak_mb)
    assert worst <= 1
    assert peak_mb < LIMIT_MB
