"""Views of a photo: each change against Pillow, SciPy or NumPy; how often; and what a batch is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from fsl_jax.data import multicrop
from fsl_jax.data.augment import Preprocess, crop
from fsl_jax.data.multicrop import MultiCrop
from fsl_jax.types import Batch

RANDOM = np.random.default_rng(0)
PHOTOS = RANDOM.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
STILL = {
    "size": 12,
    "local_size": 6,
    "local": 3,
    "share": (1.0, 1.0),
    "local_share": (1.0, 1.0),
    "flip": False,
    "jitter": 0.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "grey": 0.0,
    "blur": (0.0, 0.0, 0.0),
    "sigma": (0.1, 2.0),
    "solarise": 0.0,
    "rotate": 0.0,
    "background": 0.0,
}


@functools.cache
def compiled(*changes):
    return jax.jit(MultiCrop(**{**STILL, **dict(changes)}))


def views(photos=PHOTOS, seed=0, **changes):
    made = compiled(*changes.items())(jax.random.key(seed), jnp.asarray(photos))
    return tuple(np.asarray(each) for each in made)


def smooth(side):
    """A photo without sharp edges, of which a smaller one still tells which part it is."""
    y, x = np.mgrid[:side, :side] * (255 / (side - 1))
    return np.stack([y, x, 255 - y], axis=-1)


def test_without_any_change_views_are_the_photo_and_the_smaller_photo():
    large, small = views()
    assert large.shape == (6, 2, 12, 12, 3)
    assert small.shape == (6, 3, 6, 6, 3)
    np.testing.assert_array_equal(large[:, 0], PHOTOS)
    np.testing.assert_array_equal(large[:, 1], PHOTOS)
    shrunk = [np.asarray(Image.fromarray(p).resize((6, 6), Image.Resampling.BILINEAR)) for p in PHOTOS]
    assert np.abs(small[:, 0].astype(int) - shrunk).max() <= 1
    np.testing.assert_array_equal(small[:, 0], small[:, 2])


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_a_blur_is_scipys_gaussian_with_repeated_edges(sigma):
    image = PHOTOS[0].astype(np.float32)
    got = multicrop.blur(jax.random.key(0), jnp.asarray(image), probability=1.0, sigma=(sigma, sigma))
    reach = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", radius=(reach, reach, 0))
    np.testing.assert_allclose(got, expected, atol=1e-2)


def test_solarising_is_pillows():
    got = multicrop.solarise(jax.random.key(0), jnp.asarray(PHOTOS[0], jnp.float32), probability=1.0)
    np.testing.assert_array_equal(got, np.asarray(ImageOps.solarize(Image.fromarray(PHOTOS[0]), 128)))


@pytest.mark.parametrize(
    ("brightness", "contrast"), [(0.7, 1.0), (1.3, 1.0), (1.0, 0.6), (1.0, 1.4), (1.2, 0.8)]
)
def test_jitter_of_brightness_then_contrast_is_pillows(brightness, contrast):
    image = jnp.asarray(PHOTOS[1], jnp.float32)
    got = multicrop.jitter(image, brightness=jnp.asarray(brightness), contrast=jnp.asarray(contrast))
    bright = ImageEnhance.Brightness(Image.fromarray(PHOTOS[1])).enhance(brightness)
    expected = np.asarray(ImageEnhance.Contrast(bright).enhance(contrast)).astype(float)
    assert np.abs(np.asarray(got) - expected).max() <= 2  # Pillow rounds in between, and the mean


def test_crops_keep_between_the_least_and_the_most_of_the_area():
    height, width = 40, 40
    places = np.stack(np.mgrid[:height, :width], axis=-1).astype(np.float32)
    cut = jax.vmap(functools.partial(crop, least=0.1, most=0.3, size=8), in_axes=(0, None))
    got = np.asarray(cut(jax.random.split(jax.random.key(0), 200), jnp.asarray(places)))
    # Of a row's places the distance from the middle of the first pixel to that of the last is 7/8 of a side.
    tall, wide = (np.ptp(got[..., axis], axis=(1, 2)) * 8 / 7 for axis in (0, 1))
    area = tall * wide / (height * width)
    assert area.min() > 0.09
    assert area.max() < 0.31
    assert np.quantile(area, 0.1) < 0.13
    assert np.quantile(area, 0.9) > 0.27


def test_small_views_show_less_than_large_ones():
    photo = smooth(48)[None].astype(np.uint8)
    photos = np.repeat(photo, 50, axis=0)
    large, small = views(photos, size=16, local_size=16, share=(0.5, 1.0), local_share=(0.05, 0.2))
    seen = [np.ptp(each[..., 0].astype(int), axis=(2, 3)).mean() for each in (large, small)]
    assert seen[0] > 1.6 * seen[1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"blur": (1.0, 0.0, 0.0), "sigma": (2.0, 2.0)}, [1, 0, 0]),
        ({"blur": (0.0, 0.3, 0.0), "sigma": (2.0, 2.0)}, [0, 0.3, 0]),
        ({"blur": (0.0, 0.0, 0.5), "sigma": (2.0, 2.0)}, [0, 0, 0.5]),
        ({"solarise": 0.2}, [0, 0.2, 0]),
        ({"grey": 0.25}, [0.25, 0.25, 0.25]),
        ({"flip": True}, [0.5, 0.5, 0.5]),
        ({"jitter": 0.8}, [0.8, 0.8, 0.8]),
    ],
)
def test_each_view_is_changed_as_often_as_it_should_be(changes, expected):
    """Shares of 400 photos; three standard errors of the widest are 0.08."""
    photos = np.repeat(PHOTOS[:1], 400, axis=0)
    large, small = views(photos, **changes)
    still_large, still_small = views(photos[:1])
    unlike = [
        (each != still).any(axis=(1, 2, 3)).mean()
        for each, still in (
            (large[:, 0], still_large[:, 0]),
            (large[:, 1], still_large[:, 1]),
            (small[:, 0], still_small[:, 0]),
        )
    ]
    np.testing.assert_allclose(unlike, expected, atol=0.08)


def test_one_key_gives_the_same_views_and_another_others():
    options = {"share": (0.4, 1.0), "local_share": (0.1, 0.4), "jitter": 0.8, "flip": True}
    first, again, other = views(**options), views(**options), views(**options, seed=1)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    assert (first[1][:, 0] != first[1][:, 1]).any()  # views of a photo differ
    assert (views(PHOTOS[[0, 0]], **options)[0][0] != views(PHOTOS[[0, 0]], **options)[0][1]).any()


def test_a_batch_has_large_views_as_its_photos_and_small_ones_as_a_column():
    preprocess = Preprocess(size=12, channels=3, fit="pad", mean=(0.5,), std=(0.25,))
    batch = Batch(jnp.asarray(PHOTOS), jnp.arange(6))

    def prepare(**changes):
        crops = MultiCrop(**{**STILL, **changes})
        return jax.jit(lambda batch: crops.prepared(batch, preprocess, jax.random.key(0)))(batch)

    prepared = prepare()
    np.testing.assert_allclose(prepared.image[:, 1], preprocess(jnp.asarray(PHOTOS)), rtol=1e-6)
    assert prepared.columns["local"].shape == (6, 3, 6, 6, 3)
    assert prepared.columns["local"].dtype == jnp.float32
    assert "local" not in prepare(local=0).columns


def test_photos_of_one_channel_have_neither_saturation_nor_hue():
    large, small = views(
        PHOTOS[..., :1], jitter=1.0, grey=1.0, saturation=1.0, hue=0.5, brightness=0.0, contrast=0.0
    )
    assert np.abs(large[:, 0].astype(int) - PHOTOS[..., :1]).max() <= 1
    assert small.shape[-1] == 1


def on_ground(colour=240, side=12):
    """A dark article on plain ground, with a spot of the ground's colour in its middle, and a gap open to each side."""
    photo = np.full((side, side, 3), colour, np.uint8)
    photo[3:10, 3:10] = (120, 30, 60)
    photo[6, 6] = colour
    photo[3:5, 5] = photo[8:10, 7] = photo[5, 3:5] = photo[6, 8:10] = colour
    return photo


def reached_from_the_edge(photo):
    """Goes in a straight line from each pixel of the edge, as long as the pixels are like the edge's median."""
    edge = [*photo[0], *photo[-1], *photo[:, 0], *photo[:, -1]]
    colour = np.median(np.array(edge, float), axis=0)

    def like(pixel):
        return max(abs(pixel.astype(float) - colour)) <= 24

    side, found = len(photo), np.zeros(photo.shape[:2], bool)
    if np.mean([like(pixel) for pixel in edge]) < 0.75:
        return found
    for line in range(side):
        for way in (range(side), range(side - 1, -1, -1)):
            for at, along in ((lambda i, n=line: (n, i), way), (lambda i, n=line: (i, n), way)):
                for i in along:
                    if not like(photo[at(i)]):
                        break
                    found[at(i)] = True
    return found


@pytest.mark.parametrize("noise", [0, 8, 60])
def test_the_ground_is_what_straight_lines_from_the_edge_reach(noise):
    photo = on_ground().astype(int) + np.random.default_rng(0).integers(-noise, noise + 1, (12, 12, 3))
    photo = np.clip(photo, 0, 255).astype(np.uint8)
    got = np.asarray(multicrop.plain_ground(jnp.asarray(photo)))
    np.testing.assert_array_equal(got, reached_from_the_edge(photo))
    assert got.any() == (noise < 60)
    if not noise:
        assert not got[6, 6]  # white within the article
        assert got.sum() == 144 - 49 + 8


def test_photos_without_plain_ground_keep_what_they_have():
    large, small = views(background=1.0)
    np.testing.assert_array_equal(large, views()[0])
    np.testing.assert_array_equal(small, views()[1])


def test_each_view_of_an_article_stands_before_a_part_of_another_photo():
    blue = np.full((12, 12, 3), (0, 0, 200), np.uint8)
    large, _ = views(np.stack([on_ground(), blue]), background=1.0)
    ground = reached_from_the_edge(on_ground())
    for view in large[0]:
        np.testing.assert_array_equal(view[~ground], on_ground()[~ground])
        assert (view[ground] == (0, 0, 200)).all()
    # A photo that is all ground is replaced by another, and photos of one batch go round.
    article = large[1].reshape(-1, 3)
    assert (article == (120, 30, 60)).all(axis=-1).any()
    first, second = views(np.stack([on_ground(), PHOTOS[0]]), background=1.0)[0][0]
    assert (first[ground] != second[ground]).any()


def test_backgrounds_change_as_often_as_they_should():
    photos = np.repeat(on_ground()[None], 400, axis=0)
    photos[::2] = (0, 200, 0)
    large, _ = views(photos, background=0.3)
    np.testing.assert_allclose((large[1::2] != photos[1]).any(axis=(2, 3, 4)).mean(axis=0), 0.3, atol=0.1)


def test_views_turn_by_at_most_what_was_asked():
    bar = np.zeros((25, 25, 3), np.uint8)
    bar[12] = 255
    large, _ = views(np.repeat(bar[None], 200, axis=0), size=25, rotate=30.0)
    lit = large[:, 0, ..., 0].astype(float)
    rows = (lit * np.arange(25)[None, :, None]).sum(axis=1) / np.maximum(lit.sum(axis=1), 1e-9)
    turns = np.degrees(np.arctan((rows[:, 17] - rows[:, 7]) / 10))
    assert 25 < np.abs(turns).max() < 33
    assert abs(turns.mean()) < 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local": -1}, r"config.multicrop.local is -1; expected a number of views"),
        ({"local_size": 0}, r"config.multicrop.local_size is 0; expected pixels"),
        ({"share": (0.0, 1.0)}, r"config.multicrop.share is \(0.0, 1.0\); expected 0 < least <= most <= 1"),
        ({"local_share": (0.5, 0.2)}, r"config.multicrop.local_share"),
        ({"sigma": (0.0, 2.0)}, r"config.multicrop.sigma"),
        ({"blur": (0.5, 0.5)}, r"config.multicrop.blur is \(0.5, 0.5\); expected 3 probabilities"),
        ({"hue": 0.6}, r"config.multicrop.hue is 0.6; expected 0 to 0.5"),
        ({"solarise": 1.1}, r"config.multicrop.solarise is 1.1; expected 0 to 1"),
        ({"rotate": 181.0}, r"config.multicrop.rotate is 181.0; expected 0 to 180"),
        ({"background": -0.1}, r"config.multicrop.background is -0.1; expected 0 to 1"),
    ],
)
def test_values_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(**{**STILL, **changes})


def test_photos_with_a_mask_are_refused():
    with pytest.raises(ValueError, match=r"photos of 1 or 3 channels; these have 4"):
        MultiCrop(**STILL)(jax.random.key(0), jnp.zeros((1, 12, 12, 4), jnp.uint8))
