"""Regions and joined ends through the public calls: what files hold, what is decoded for them, what is refused."""

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import RepeatModel

import tiler
from taesd_core.checkpoint import load_checkpoint
from taesd_core.variants import find_weights
from taesd_core.whole_image import build_whole_image_model
from tiler import models
from tiler.command.cli import main
from tiler.sources.opening import open_latents
from tiler.sources.upscale import Upscaled

tifffile = pytest.importorskip("tifffile")

HEIGHT, WIDTH = 26, 31
X, Y, COLUMNS, ROWS = REGION = 53, 29, 187, 143  # not a multiple of 8 among them
CROP = np.s_[Y : Y + ROWS, X : X + COLUMNS]


@pytest.fixture(scope="module")
def whole_image():
    """The image as the plain model decodes it at once."""
    checkpoint = load_checkpoint(find_weights("photo", "decoder"), "decoder")
    model = build_whole_image_model(checkpoint.network.layers, checkpoint.tensors)
    return lambda latents: np.round(np.clip(model.predict_on_batch(latents[None])[0], 0, 1) * 255)


@pytest.fixture
def stand_in(monkeypatch):
    """A decoder that takes no time, and a count of what it decodes."""
    calls = []
    model = RepeatModel()
    monkeypatch.setattr(models, "load_model", lambda *_, **_options: lambda *tile: calls.append(tile) or model(*tile))
    return calls


def assert_equal_but_for_roundings(image, expected):
    difference = np.abs(image.astype(int) - expected)
    assert image.shape == expected.shape
    assert np.ptp(expected) > 100
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 2e-4


def repeat_3_times(source, wrap):
    return np.tile(source, (3 if wrap in ("y", "both") else 1, 3 if wrap in ("x", "both") else 1, 1))


def test_a_file_of_a_region_holds_the_crop_of_the_whole_image(tmp_path, latents, whole_image):
    source = latents(HEIGHT, WIDTH)
    expected = whole_image(source)[CROP]
    path = tmp_path / "image.tif"
    report = tiler.decode(source, path, weights="photo", tile_size_px=64, region=REGION, verify=2)
    assert report.shape == (ROWS, COLUMNS, 3)
    assert report.n_tiles == 9
    assert report.verification.ok
    assert_equal_but_for_roundings(tifffile.imread(path), expected)


@pytest.mark.parametrize(("wrap", "upscale"), [("x", 1), ("both", 2)])
def test_a_file_with_joined_ends_holds_the_middle_of_the_repeated_latents(
    tmp_path, latents, whole_image, wrap, upscale
):
    source = latents(19, 19)[: 19 // upscale, : 19 // upscale]
    repeated = repeat_3_times(source, wrap)
    n_rows, n_columns = (size * 8 * upscale for size in source.shape[:2])
    top, left = n_rows * (wrap in ("y", "both")), n_columns * (wrap in ("x", "both"))
    large = Upscaled(open_latents(repeated, 4), upscale)
    whole = whole_image(large.read(tiler.Window.whole(*large.shape[:2])))
    path = tmp_path / "image.tif"
    wrapped = tiler.Latents(source, wrap=wrap, upscale=upscale)
    report = tiler.decode(wrapped, path, weights="photo", tile_size_px=64, verify=2)
    assert report.verification.ok
    assert_equal_but_for_roundings(tifffile.imread(path), whole[top : top + n_rows, left : left + n_columns])
    tiler.decode(wrapped, path, weights="photo", tile_size_px=64, region=(5, 7, 70, 90), overwrite=True)
    assert_equal_but_for_roundings(tifffile.imread(path), whole[top + 7 : top + 97, left + 5 : left + 75])


def test_a_file_is_verified_as_the_part_that_it_is(tmp_path, latents):
    source = latents(20, 20)
    path = tmp_path / "image.npy"
    region = 0, 3, 60, 50
    tiler.decode(tiler.Latents(source, wrap="x"), path, weights="photo", region=region)
    for wrap, verified, ok in (
        ("x", region, True),
        (None, region, False),
        ("y", region, False),
        ("x", (1, 3, 60, 50), False),
        ("x", (0, 3, 60, 51), False),
    ):
        assert tiler.verify(path, tiler.Latents(source, wrap=wrap), weights="photo", region=verified).ok == ok
    with pytest.raises(tiler.OptionError, match="leaves the image"):
        tiler.verify(path, source, weights="photo", region=(120, 0, 60, 50))


@pytest.mark.parametrize("region", [(0, 0, WIDTH * 8, HEIGHT * 8), (1, 1, 1, 1), (WIDTH * 8 - 70, 3, 70, 200), REGION])
@pytest.mark.parametrize("kind", ["deflate", "jpeg", "none"])
def test_a_tiff_of_a_region_consists_of_whole_tiles_and_levels(tmp_path, latents, stand_in, region, kind):
    source = latents(HEIGHT, WIDTH)
    x, y, width, height = region
    path = tmp_path / "image.tif"
    file = tiler.Tiff(path, file_tile_px=32, compression=kind, quality=100 if kind == "jpeg" else None)
    tiler.decode(source, file, weights="photo", tile_size_px=64, region=region)
    whole = RepeatModel()(source, ((True, True), (True, True)))
    image = tifffile.imread(path)
    assert np.abs(image.astype(int) - whole[y : y + height, x : x + width]).max() <= (60 if kind == "jpeg" else 0)
    assert not any(
        each.problems or each.levels for each in [tiler.verify(path, source, weights="photo", samples=0)][1:]
    )
    found = tiler.verify(path, source, weights="photo", region=region, samples=0)
    assert found.ok, found.lines


@pytest.mark.parametrize("wrap", [None, "both"])
def test_a_lazy_image_decodes_only_what_is_touched_of_a_region(latents, stand_in, wrap):
    source = latents(HEIGHT, WIDTH)
    lazy = tiler.decode_lazily(tiler.Latents(source, wrap=wrap), weights="photo", tile_size_px=64, region=REGION)
    assert lazy.shape == (ROWS, COLUMNS, 3)
    assert lazy.chunks == ((64, 64, 15), (64, 64, 59), (3,))
    assert not stand_in
    whole = RepeatModel()(source, ((True, True), (True, True)))[CROP]
    np.testing.assert_array_equal(lazy[100:120, 130:].compute(), whole[100:120, 130:])
    assert len(stand_in) == 1
    np.testing.assert_array_equal(lazy[60:70, ::3].compute(), whole[60:70, ::3])
    assert len(stand_in) == 1 + 2 * 3


def test_only_the_latents_around_a_region_are_read(latents, stand_in):
    read = []

    class Recording:
        shape = (1000, 1000, 4)

        def read(self, window):
            read.append(window)
            return np.zeros((*window.shape, 4), np.float32)

    tiler.decode_lazily(Recording(), weights="photo", region=(4000, 800, 20, 30)).compute()
    assert read == [tiler.Window(tiler.Span(100 - 19, 104 + 19), tiler.Span(500 - 19, 503 + 19))]


def test_a_job_goes_on_with_its_own_part_only(tmp_path, latents, monkeypatch):
    class FullDisk(RepeatModel):
        n_calls = 0

        def __call__(self, window, *place):
            self.n_calls += 1
            if self.n_calls > 2:
                raise OSError(28, "No space left on device")
            return super().__call__(window, *place)

    source = latents(HEIGHT, WIDTH)
    path = tmp_path / "image.npy"
    options = {"weights": "photo", "tile_size_px": 64, "workers": 1}
    begun = tiler.Latents(source, wrap="x")
    monkeypatch.setattr(models, "load_model", lambda *_, **_options: FullDisk())
    with pytest.raises(tiler.TilerError):
        tiler.decode(begun, path, region=REGION, **options)
    monkeypatch.setattr(models, "load_model", lambda *_, **_options: RepeatModel())
    for wrap, region, words in (
        ("x", (X + 1, *REGION[1:]), f"region, begun with rows {Y}:{Y + ROWS}, columns {X}:"),
        ("y", REGION, "wrap, begun with x, now y"),
        (None, REGION, "wrap, begun with x, now nothing"),
    ):
        with pytest.raises(tiler.InputError, match=words):
            tiler.decode(tiler.Latents(source, wrap=wrap), path, region=region, resume=True, **options)
    report = tiler.decode(begun, path, region=REGION, resume=True, **options)
    assert report.n_resumed == 2
    np.testing.assert_array_equal(np.load(path), RepeatModel()(source, ((True, True), (True, True)))[CROP])


SAID = [{}, {"wrap": "x"}, {"wrap": "y"}, {"wrap": "both"}, {"upscale": 3}, {"wrap": "both", "upscale": 2}]


@pytest.mark.parametrize("row", [0, 21, HEIGHT - 1])
@pytest.mark.parametrize("said", SAID, ids=str)
def test_nan_is_named_by_its_place_in_the_input(tmp_path, latents, stand_in, said, row):
    source = latents(HEIGHT, WIDTH)
    source[row, 13, 2] = np.inf
    factor = said.get("upscale", 1)
    near = 13 * 8 * factor, row * 8 * factor, 5, 8
    for region in (None, near):
        with pytest.raises(tiler.NonFiniteError, match=f"value=inf at row {row}, column 13, channel 2"):
            tiler.decode(
                tiler.Latents(source, **said), tmp_path / "image.npy", weights="photo", region=region, workers=1
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("said", SAID, ids=str)
def test_nan_that_a_region_does_not_see_is_no_error(tmp_path, latents, stand_in, said):
    height, width = 90, 80
    source = latents(height, width)
    source[0, 0] = source[height - 1, width - 1] = np.nan
    factor = said.get("upscale", 1)
    middle = 40 * 8 * factor, 45 * 8 * factor, 9, 8
    tiler.decode(tiler.Latents(source, **said), tmp_path / "image.npy", weights="photo", region=middle)
    assert np.load(tmp_path / "image.npy").shape == (8, 9, 3)


@pytest.mark.parametrize(
    "region",
    [(1, 2, 3), (1, 2, 3, 4, 5), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, -5), (0.5, 0, 5, 5), "5,5,5,5", 7],
    ids=str,
)
def test_what_is_no_region_is_refused_in_one_line(latents, region):
    with pytest.raises(tiler.OptionError, match="Not a region: region=") as caught:
        tiler.plan_decode(latents(5, 5), region=region)
    assert "\n" not in str(caught.value)


def test_numpy_integers_are_whole_numbers(latents):
    plan = tiler.plan_decode(latents(5, 5), region=tuple(np.array([1, 2, 3, 4])))
    assert plan.output_shape == (4, 3, 3)


def test_a_small_region_of_a_huge_image_gets_a_tile_of_its_own_size(latents):
    class Huge:
        shape = (200_000, 200_000, 4)

        def read(self, window):
            raise AssertionError

    plan = tiler.plan_decode(Huge(), region=(800_000, 3, 700, 600))
    assert plan.n_tiles == 1
    assert plan.peak_bytes < 2**31


def test_the_command_line_shows_what_a_region_is_of(tmp_path, latents):
    np.save(tmp_path / "latents.npy", latents(HEIGHT, WIDTH))
    words = ["plan", str(tmp_path / "latents.npy"), "--region", ",".join(map(str, REGION)), "--wrap", "both"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert f"{HEIGHT} × {WIDTH} × 4, top and bottom and left and right joined" in result.output
    assert f"{ROWS} × {COLUMNS} × 3, rows {Y}:{Y + ROWS}, columns {X}:{X + COLUMNS} of 208 × 248" in result.output


def test_the_command_line_decodes_and_verifies_a_part(tmp_path, latents, stand_in):
    np.save(tmp_path / "latents.npy", latents(HEIGHT, WIDTH))
    files = str(tmp_path / "latents.npy"), str(tmp_path / "image.npy")
    part = ["--region", ",".join(map(str, REGION)), "--wrap", "x", "--weights", "photo"]
    result = CliRunner().invoke(main, ["decode", *files, *part])
    assert result.exit_code == 0, result.output
    assert np.load(files[1]).shape == (ROWS, COLUMNS, 3)
    assert CliRunner().invoke(main, ["verify", *reversed(files), *part, "--samples", "0"]).exit_code == 0
    assert CliRunner().invoke(main, ["verify", *reversed(files), "--weights", "photo"]).exit_code == 7


@pytest.mark.parametrize("region", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4", "0,0,0,5", "-1,0,5,5", "0,0,999,1"])
def test_the_command_line_refuses_what_is_no_region(tmp_path, latents, region):
    np.save(tmp_path / "latents.npy", latents(5, 6))
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "latents.npy"), "--region", region])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
