import dataclasses
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from absl import logging
from PIL import Image, ImageOps

from fsl_jax.data import read
from fsl_jax.data.read import UnreadablePhoto, check_photos, read_all, read_photo
from fsl_jax.data.table import Coded, Table


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def noise(height=40, width=60, channels=3, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def saved(folder, name, array, **options):
    file = folder / name
    Image.fromarray(array).save(file, **options)
    return file


def photo(file, *, size=8, channels=3, fit="stretch"):
    return read_photo(file, size=size, channels=channels, fit=fit)


def flat(colour, height=20, width=20):
    return np.full((height, width, 3), colour, np.uint8)


# --- shapes and fits ---


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gives_uint8_squares(tmp_path, fit, channels):
    result = photo(saved(tmp_path, "a.png", noise()), size=24, channels=channels, fit=fit)
    assert result.shape == (24, 24, channels)
    assert result.dtype == np.uint8


@pytest.mark.parametrize(
    ("height", "width", "size"), [(40, 60, 24), (413, 512, 224), (33, 100, 21), (5, 3, 64)]
)
def test_pad_is_pillows_pad_on_white(tmp_path, height, width, size):
    file = saved(tmp_path, "a.png", noise(height, width))
    with Image.open(file) as image:
        expected = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color="white")
    np.testing.assert_array_equal(photo(file, size=size, fit="pad"), np.asarray(expected))


def test_pad_leaves_white_bars_and_crop_none(tmp_path):
    file = saved(tmp_path, "a.png", flat((10, 20, 30), height=10, width=40))
    padded, cropped = photo(file, size=20, fit="pad"), photo(file, size=20, fit="crop")
    np.testing.assert_array_equal(
        np.flatnonzero((padded == 255).all(axis=(1, 2))), [*range(8), *range(13, 20)]
    )
    np.testing.assert_array_equal(cropped, flat((10, 20, 30)))


def test_crop_takes_the_centre(tmp_path):
    array = np.zeros((10, 30, 3), np.uint8)
    array[:, 10:20] = 200
    assert (photo(saved(tmp_path, "a.png", array), size=10, fit="crop") == 200).all()


def test_a_very_long_photo_keeps_one_pixel_of_its_short_side(tmp_path):
    padded = photo(saved(tmp_path, "a.png", np.zeros((1, 4000, 3), np.uint8)), size=8, fit="pad")
    assert ((padded == 0).all(axis=(1, 2))).sum() == 1


def test_one_pixel_fills_the_square(tmp_path):
    file = saved(tmp_path, "a.png", flat((1, 2, 3), height=1, width=1))
    for fit in ("pad", "stretch", "crop"):
        np.testing.assert_array_equal(photo(file, size=8, fit=fit), flat((1, 2, 3), 8, 8))


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path):
    checks = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    shrunk = photo(saved(tmp_path, "a.png", checks.astype(np.uint8)), size=8, channels=1)
    assert abs(shrunk.astype(int) - 128).max() <= 2


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    smooth = Image.fromarray(noise(8, 6)).resize((1200, 1600), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert abs(photo(tmp_path / "a.jpg", size=32).astype(int) - expected).mean() < 1.0


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_long_jpeg_is_not_decoded_smaller_than_its_short_side_needs(tmp_path, fit):
    Image.fromarray(noise(50, 800)).resize((3200, 200), Image.Resampling.BICUBIC).save(
        tmp_path / "a.jpg", quality=95
    )
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.png")  # which is decoded whole
    sharp, drafted = (photo(tmp_path / name, size=64, fit=fit).astype(int) for name in ("a.png", "a.jpg"))
    assert abs(sharp - drafted).mean() < 1.0


def test_an_unreadable_photo_can_be_pickled(tmp_path):
    error = pickle.loads(pickle.dumps(UnreadablePhoto("a.jpg", "empty file")))
    assert (str(error), error.reason) == ("a.jpg: empty file", "empty file")


def test_reads_an_open_stream(tmp_path):
    file = saved(tmp_path, "a.png", noise())
    np.testing.assert_array_equal(photo(io.BytesIO(file.read_bytes())), photo(file))


# --- modes ---


def test_exif_orientation_is_honoured(tmp_path):
    array = np.zeros((20, 10, 3), np.uint8)
    array[:10] = 250  # bright at the top as it is meant to be seen
    for orientation, stored in {3: np.rot90(array, 2), 6: np.rot90(array, 1), 8: np.rot90(array, -1)}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = saved(tmp_path, f"{orientation}.png", np.ascontiguousarray(stored), exif=exif)
        np.testing.assert_array_equal(photo(file, size=10, fit="crop")[[0, -1], 5, 0], [250, 0])


def test_a_turned_jpeg_is_decoded_small_and_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    array = np.zeros((400, 800, 3), np.uint8)
    array[:, :400] = 250
    upright = photo(saved(tmp_path, "a.jpg", array, exif=exif), size=20, fit="pad")
    assert upright[2, 10, 0] > 240
    assert upright[17, 10, 0] < 10


def test_transparent_pixels_are_white(tmp_path):
    array = np.zeros((10, 20, 4), np.uint8)
    array[:, 10:, 3] = 255
    result = photo(saved(tmp_path, "a.png", array), size=20)
    assert (result[:, :8] == 255).all()
    assert (result[:, 12:] == 0).all()


def test_a_palette_with_transparency_is_composited_on_white(tmp_path):
    image = Image.new("P", (10, 10), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (5, 0, 10, 10))
    image.save(tmp_path / "a.png", transparency=0)
    result = photo(tmp_path / "a.png", size=10, fit="pad")
    assert result[5, 1].tolist() == [255, 255, 255]
    assert result[5, 8].tolist() == [0, 0, 200]


def test_a_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("P", (8, 8), 0) for _ in range(2)]
    for frame, colour in zip(frames, ([200, 0, 0], [0, 200, 0]), strict=True):
        frame.putpalette(colour)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert photo(tmp_path / "a.gif")[0, 0].tolist() == [200, 0, 0]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    file = saved(tmp_path, "a.png", np.full((8, 8), 257 * 100, np.uint16))
    np.testing.assert_array_equal(photo(file), np.full((8, 8, 3), 100))


def test_one_bit_gives_black_and_white(tmp_path):
    Image.fromarray(np.eye(8) > 0).save(tmp_path / "a.png")
    np.testing.assert_array_equal(photo(tmp_path / "a.png", channels=1)[..., 0], np.eye(8) * 255)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = photo(tmp_path / "a.jpg")[4, 4].astype(int)
    assert abs(red - [255, 0, 0]).max() <= 4


def test_grey_is_luma(tmp_path):
    colour = (200, 100, 50)
    expected = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # ITU-R BT.601
    assert abs(photo(saved(tmp_path, "a.png", flat(colour)), channels=1).astype(float) - expected).max() <= 1


# --- what cannot be read ---


def huge_png():
    """The header of a PNG of 30,000 x 30,000 pixels: 60 bytes that ask for 2.7 GB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg_bytes():
    stream = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(stream, "JPEG")
    return stream.getvalue()


BROKEN = {
    "empty.jpg": (b"", "empty file"),
    "cut.jpg": (jpeg_bytes()[:3000], "truncated"),
    "text.jpg": (b"<html>404</html>", "not an image"),
    "._a.jpg": (b"\x00\x05\x16\x07" + bytes(78), "macOS"),
    "renamed_stub.jpg": (b"\x00\x05\x16\x07" + bytes(78), "macOS"),
    "huge.png": (huge_png(), "too many pixels"),
}


@pytest.fixture
def broken(tmp_path):
    for name, (data, _) in BROKEN.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("name", BROKEN)
def test_names_the_file_and_the_reason(broken, name):
    with pytest.raises(UnreadablePhoto, match=BROKEN[name][1]) as caught:
        photo(broken / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_twice_the_pixel_limit_is_not_needed_to_be_refused(tmp_path, monkeypatch):
    file = saved(tmp_path, "a.png", noise(40, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow alone warns here and reads on
    with pytest.raises(UnreadablePhoto, match="too many pixels"):
        photo(file)


def test_float_pixels_are_refused_as_their_range_is_unknown(tmp_path):
    file = saved(tmp_path, "a.tif", np.ones((8, 8), np.float32))
    with pytest.raises(UnreadablePhoto, match="8 or 16 bits"):
        photo(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UnreadablePhoto, match=r"gone\.jpg: missing"):
        photo(tmp_path / "gone.jpg")
    with pytest.raises(UnreadablePhoto, match="directory"):
        photo(tmp_path)


def test_a_truncated_png_is_refused(tmp_path):
    file = saved(tmp_path, "a.png", noise(100, 100))
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UnreadablePhoto):
        photo(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"channels": 2}, r"channels is 2; expected 1 \(grey\), 3 \(colour\) or 4 \(colour and mask\)"),
        ({"fit": "shrink"}, "pad, stretch, crop"),
    ],
)
def test_refuses_options_that_do_not_exist(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        photo(saved(tmp_path, "a.png", noise()), **options)


# --- tables ---


def table_of(folder, names):
    labels = [name.rsplit(".", 1)[0] for name in names]
    return Table(
        source="folder",
        label=Coded.of(labels),
        split=np.full(len(names), "train"),
        path=np.array(names, dtype=object),
        root=folder,
    )


@pytest.fixture
def mixed(broken):
    """Three good photos among six broken ones."""
    for i in range(3):
        saved(broken, f"good{i}.png", noise(seed=i))
    return table_of(broken, ["good0.png", *BROKEN, "good1.png", "good2.png"])


def test_reads_a_table_in_its_order(mixed):
    rows = np.array([8, 0, 7])
    result = read_all(mixed.take(rows), size=8, channels=3, fit="pad", unreadable="refuse")
    assert result.path is None
    for image, row in zip(result.images, rows, strict=True):
        np.testing.assert_array_equal(image, photo(mixed.file(row), fit="pad"))


def test_refuses_with_the_first_five_named_and_the_others_counted(mixed):
    with pytest.raises(ValueError, match="6 of 9 photos cannot be read") as caught:
        read_all(mixed, size=8, channels=3, fit="pad", unreadable="refuse")
    message = str(caught.value)
    assert all(name in message for name in list(BROKEN)[:5])
    assert "huge.png" not in message
    assert "and 1 more" in message


def test_drops_what_is_broken_with_a_warning_and_codes_labels_anew(mixed, monkeypatch):
    warned = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: warned.append(message % values))
    result = read_all(mixed, size=8, channels=1, fit="pad", unreadable="drop")
    assert result.images.shape == (3, 8, 8, 1)
    assert result.label.names == ("good0", "good1", "good2")
    assert result.label.codes.tolist() == [0, 1, 2]
    assert len(warned) == 1
    assert "empty.jpg (empty file)" in warned[0]


def test_dropping_everything_is_an_error(mixed):
    with pytest.raises(ValueError, match="nothing left"):
        read_all(mixed.take(np.array([1, 2])), size=8, channels=3, fit="pad", unreadable="drop")


def test_arrays_of_another_size_are_fitted_and_of_the_same_size_kept():
    images = np.stack([noise(16, 16, seed=i) for i in range(2)])
    table = Table(source="arrays", label=Coded.of(["a", "b"]), split=np.full(2, "test"), images=images)
    assert read_all(table, size=16, channels=3, fit="pad", unreadable="refuse") is table
    smaller = read_all(table, size=8, channels=1, fit="pad", unreadable="refuse")
    assert smaller.images.shape == (2, 8, 8, 1)


def test_checking_finds_the_rows_that_reading_cannot_read(mixed):
    found = check_photos(mixed)
    assert [row for row, _ in found] == [1, 2, 3, 4, 5, 6]
    assert found[0][1] == "empty file"


def test_an_unchanged_photo_is_checked_once_and_a_changed_one_again(mixed, monkeypatch):
    first = check_photos(mixed)
    looked = []
    check = read._check
    monkeypatch.setattr(read, "_check", lambda file: looked.append(file.name) or check(file))
    assert check_photos(mixed) == first
    assert looked == []
    changed = mixed.root / "good1.png"
    changed.write_bytes(bytes(changed.stat().st_size))  # of the same size, so that only the time tells
    assert [row for row, _ in check_photos(mixed)] == [1, 2, 3, 4, 5, 6, 7]
    assert looked == ["good1.png"]


def test_a_missing_photo_is_looked_for_each_time(mixed):
    (mixed.root / "good0.png").rename(mixed.root / "away.png")
    assert check_photos(mixed)[0] == (0, "missing")
    (mixed.root / "away.png").rename(mixed.root / "good0.png")
    assert check_photos(mixed)[0][0] == 1


def test_a_cache_that_cannot_be_written_is_a_warning(mixed, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    warned = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: warned.append(message % values))
    assert len(check_photos(mixed)) == 6
    assert "cannot keep" in warned[0]


# --- masks ---


def masked(file, mask=None, *, size=8, fit="stretch"):
    return read_photo(file, size=size, channels=4, fit=fit, mask=mask)


def left_half(height, width):
    """A mask whose left half shows the article."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def rgba(height=10, width=20, colour=(200, 100, 50)):
    """A photo that is opaque on the left and transparent on the right."""
    return np.dstack([flat(colour, height, width), left_half(height, width)])


def test_transparency_is_the_mask_and_colours_lie_on_white(tmp_path):
    result = masked(saved(tmp_path, "a.png", rgba()), size=20)
    assert result[10, [2, 17]].tolist() == [[200, 100, 50, 255], [255, 255, 255, 0]]
    # Bicubic on the edge, apart from the colours: the same as of a grey photo of the mask.
    expected = photo(saved(tmp_path, "m.png", left_half(10, 20)), size=20, channels=1)[..., 0]
    np.testing.assert_array_equal(result[..., 3], expected)


def test_transparency_of_a_palette_is_the_mask(tmp_path):
    image = Image.new("P", (10, 10), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (5, 0, 10, 10))
    image.save(tmp_path / "a.png", transparency=0)
    assert masked(tmp_path / "a.png", size=10)[5, [1, 8]].tolist() == [[255, 255, 255, 0], [0, 0, 200, 255]]


@pytest.mark.parametrize("channels", [1, 3])
def test_without_transparency_and_mask_file_everything_is_the_article(tmp_path, channels):
    assert (masked(saved(tmp_path, "a.png", noise(channels=channels)))[..., 3] == 255).all()


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_a_mask_changes_no_colour(tmp_path, fit):
    file, mask = saved(tmp_path, "a.png", noise()), saved(tmp_path, "m.png", noise(channels=1, seed=1))
    result = masked(file, mask, size=24, fit=fit)
    np.testing.assert_array_equal(result[..., :3], photo(file, size=24, fit=fit))
    if fit != "pad":
        np.testing.assert_array_equal(result[..., 3:], photo(mask, size=24, channels=1, fit=fit))


def test_padding_is_no_article(tmp_path):
    result = masked(saved(tmp_path, "a.png", flat((10, 20, 30), height=10, width=40)), size=20, fit="pad")
    bars = [*range(8), *range(13, 20)]
    assert (result[bars] == [255, 255, 255, 0]).all()
    assert (result[8:13] == [10, 20, 30, 255]).all()


def test_a_mask_file_beats_transparency_and_colours_still_lie_on_white(tmp_path):
    mask = saved(tmp_path, "m.png", left_half(10, 20)[:, ::-1].copy())
    result = masked(saved(tmp_path, "a.png", rgba()), mask, size=20)
    assert result[10, [2, 17]].tolist() == [[200, 100, 50, 0], [255, 255, 255, 255]]


def test_a_mask_of_colours_is_read_as_grey_levels(tmp_path):
    mask = saved(tmp_path, "m.png", flat((200, 100, 50)))
    grey = photo(mask, channels=1)
    np.testing.assert_array_equal(masked(saved(tmp_path, "a.png", flat((1, 2, 3))), mask)[..., 3:], grey)


def test_a_mask_of_another_size_is_brought_to_the_photos_by_the_nearest_pixel(tmp_path):
    file = saved(tmp_path, "a.png", noise(40, 80))
    small = np.array([[0, 255, 100, 200]] * 2, np.uint8)
    result = masked(file, saved(tmp_path, "m.png", small), size=80, fit="crop")[..., 3]
    wide = saved(tmp_path, "wide.png", small.repeat(20, axis=0).repeat(20, axis=1))
    np.testing.assert_array_equal(result, photo(wide, size=80, channels=1, fit="crop")[..., 0])


@pytest.mark.parametrize(("width", "fits"), [(98, False), (99, True), (101, True), (103, False)])
def test_a_mask_of_another_aspect_is_refused_from_2_percent_on(tmp_path, width, fits):
    file, mask = saved(tmp_path, "a.png", noise(50, 50)), saved(tmp_path, "m.png", left_half(100, width))
    if fits:
        masked(file, mask)
        return
    with pytest.raises(UnreadablePhoto, match=rf"m\.png is {width} x 100 and the photo 50 x 50.*same aspect"):
        masked(file, mask)


@pytest.mark.parametrize(("photo_turned", "mask_turned"), [(True, True), (True, False), (False, True)])
def test_photo_and_mask_are_each_turned_as_the_camera_says(tmp_path, photo_turned, mask_turned):
    def stored(name, array, turned):
        exif = Image.Exif()
        exif[0x0112] = 6 if turned else 1
        return saved(tmp_path, name, np.ascontiguousarray(np.rot90(array, int(turned))), exif=exif)

    upper = np.zeros((20, 10), np.uint8)
    upper[:10] = 255
    result = masked(
        stored("a.png", np.dstack([upper] * 3), photo_turned), stored("m.png", upper, mask_turned), size=10
    )
    assert result[[1, 8], 5].tolist() == [[255] * 4, [0] * 4]


def test_a_jpeg_that_is_decoded_small_keeps_its_mask_in_place(tmp_path, monkeypatch):
    array = np.zeros((1203, 1601, 3), np.uint8)
    array[:, :800] = 250
    file, mask = saved(tmp_path, "a.jpg", array), saved(tmp_path, "m.png", left_half(1203, 1601))
    fitted = []
    fit_photo = read.fit_photo
    monkeypatch.setattr(
        read, "fit_photo", lambda image, **options: fitted.append(image.size) or fit_photo(image, **options)
    )
    result = masked(file, mask, size=32).astype(int)
    assert fitted == [(201, 151)]  # an eighth, rounded up
    assert (abs(result[:, :15] - [250, 250, 250, 255]) <= 5).all()
    assert (result[:, 17:] <= 5).all()


def test_a_mask_needs_the_fourth_channel(tmp_path):
    file = saved(tmp_path, "a.png", noise())
    with pytest.raises(ValueError, match="a mask is given and channels is 3"):
        read_photo(file, size=8, channels=3, fit="pad", mask=file)


def test_a_broken_mask_is_named_with_its_photo(tmp_path):
    file = saved(tmp_path, "a.png", noise())
    with pytest.raises(UnreadablePhoto, match=r"a\.png: mask .*gone\.png: missing"):
        masked(file, tmp_path / "gone.png")


@pytest.fixture
def some_masked(tmp_path):
    """A cutout, a photo with a mask file, one with neither, and one whose mask is broken."""
    saved(tmp_path, "cutout.png", rgba(8, 8))
    for i in range(3):
        saved(tmp_path, f"good{i}.png", noise(8, 8, seed=i))
    (tmp_path / "m").mkdir()
    saved(tmp_path / "m", "0.png", left_half(8, 8))
    (tmp_path / "m" / "2.png").write_bytes(b"<html>404</html>")
    table = table_of(tmp_path, ["cutout.png", "good0.png", "good1.png", "good2.png"])
    return dataclasses.replace(table, mask=np.array(["", "m/0.png", "", "m/2.png"], dtype=object))


def test_a_table_of_masks_is_read_into_the_fourth_channel(some_masked):
    result = read_all(some_masked, size=8, channels=4, fit="pad", unreadable="drop")
    assert (result.images.shape, result.mask) == ((3, 8, 8, 4), None)
    np.testing.assert_array_equal(result.images[..., 3], [left_half(8, 8)] * 2 + [np.full((8, 8), 255)])


@pytest.mark.parametrize("channels", [1, 3])
def test_masks_are_not_looked_at_where_they_are_not_asked_for(some_masked, channels):
    result = read_all(some_masked, size=8, channels=channels, fit="pad", unreadable="refuse")
    without = dataclasses.replace(some_masked, mask=None)
    expected = read_all(without, size=8, channels=channels, fit="pad", unreadable="refuse")
    np.testing.assert_array_equal(result.images, expected.images)


def test_arrays_get_a_full_mask_lose_theirs_and_keep_colours_outside_of_it():
    images = np.dstack([flat((200, 100, 50)), np.zeros((20, 20), np.uint8)])[None]
    table = Table(source="arrays", label=Coded.of(["a"]), split=np.full(1, "test"), images=images)

    def of(table, channels):
        return read_all(table, size=8, channels=channels, fit="stretch", unreadable="refuse")

    assert (of(table, 4).images == [200, 100, 50, 0]).all()
    assert (of(table, 3).images == [200, 100, 50]).all()
    assert (of(of(table, 3), 4).images == [200, 100, 50, 255]).all()
    assert (of(of(table, 1), 4).images == [124, 124, 124, 255]).all()


def test_masks_are_checked_with_their_photos(some_masked):
    ((row, reason),) = check_photos(some_masked)
    assert row == 3
    assert "2.png: not an image" in reason
    assert check_photos(dataclasses.replace(some_masked, mask=None)) == []


def test_a_mask_of_another_aspect_is_found_before_training(some_masked):
    saved(some_masked.root / "m", "2.png", left_half(8, 16))
    ((row, reason),) = check_photos(some_masked)
    assert (row, "16 x 8 and the photo 8 x 8" in reason) == (3, True)


def test_small_jpegs_have_the_aspect_of_their_masks_when_they_are_checked(tmp_path):
    saved(tmp_path, "a.jpg", noise(33, 100))  # an eighth of it, rounded up, is 5 x 13
    saved(tmp_path, "m.png", left_half(33, 100))
    table = dataclasses.replace(table_of(tmp_path, ["a.jpg"]), mask=np.array(["m.png"]))
    assert check_photos(table) == []


def test_a_changed_mask_is_checked_again(some_masked):
    check_photos(some_masked)
    saved(some_masked.root / "m", "2.png", left_half(8, 8))
    assert check_photos(some_masked) == []
    (some_masked.root / "m" / "0.png").unlink()
    assert [row for row, _ in check_photos(some_masked)] == [1]
