"""A picture in another space of colours that is larger than the memory it is read in, compared with Little CMS."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import profiles
import pytest
import tifffile

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 12_000, 14_000
LIMIT_MB = 400
"""Of 500 MB of pixels, which are 1 GB when converted; 256 MB may be kept of strips."""

PROGRAM = """
import io, resource, sys
import numpy as np
from PIL import Image, ImageCms
import pyvips
from tiler.sources.opening import open_image
from tiler.window import Span, Window
sys.path.insert(0, "tests")
import profiles
from test_large_picture import HEIGHT, WIDTH, make_rows

to_srgb = ImageCms.buildTransform(
    ImageCms.ImageCmsProfile(io.BytesIO(profiles.rgb(getattr(profiles, sys.argv[2])))), ImageCms.createProfile("sRGB"),
    "RGB", "RGB", renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC)
source = open_image(sys.argv[1])
assert source.shape == (HEIGHT, WIDTH, 3)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, worst = peak(), 0
for top in range(0, HEIGHT, 1024):
    rows = Span(top, min(top + 1024, HEIGHT))
    expected = np.asarray(ImageCms.applyTransform(Image.fromarray(make_rows(rows.start, rows.stop)), to_srgb))
    for left in range(0, WIDTH, 1024):
        columns = Span(left, min(left + 1024, WIDTH))
        values = source.read(Window(rows, columns))
        worst = max(worst, np.abs(values - expected[:, columns.slice] / np.float32(255)).max())
print(worst * 255, peak() - before)
"""


def make_rows(start, stop):
    """Rows of a picture of all colours, noise in steps; any of them by themselves."""
    y, x = np.arange(start, stop)[:, None], np.arange(WIDTH)[None]
    return np.stack([(x * 7 + y // 64) % 256, (x // 11 + y * 3) % 256, (x ^ y) % 256], axis=-1).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("primaries", ["DISPLAY_P3", "EXCHANGED"])
@pytest.mark.parametrize("stored", ["tiles", "strips", "plain strips"])
def test_a_picture_larger_than_memory_is_converted_window_by_window(stored, primaries, tmp_path):
    n_rows = 512 if stored == "tiles" else 16

    def parts():
        for top in range(0, HEIGHT, n_rows):
            rows = make_rows(top, min(top + n_rows, HEIGHT))
            if stored != "tiles":
                yield rows
                continue
            for left in range(0, WIDTH, 512):
                tile = rows[:, left : left + 512]
                yield np.pad(tile, ((0, 512 - tile.shape[0]), (0, 512 - tile.shape[1]), (0, 0)))

    tifffile.imwrite(
        tmp_path / "a.tif",
        parts(),
        shape=(HEIGHT, WIDTH, 3),
        dtype=np.uint8,
        photometric="rgb",
        compression=None if stored == "plain strips" else "zlib",
        compressionargs=None if stored == "plain strips" else {"level": 1},
        iccprofile=profiles.rgb(getattr(profiles, primaries)),
        **({"tile": (512, 512)} if stored == "tiles" else {"rowsperstrip": n_rows}),
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a.tif"), primaries],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    worst, peak_mb = map(float, done.stdout.split())
    assert worst <= 1
    assert peak_mb < LIMIT_MB
    print(stored, primaries, worst, peak_mb)
