"""Preparing and augmenting photos, against NumPy and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_episode
from PIL import Image, ImageEnhance
from scipy.ndimage import affine_transform
from skimage.color import rgb2yiq
from skimage.transform import rotate as skimage_rotate

from fsl_jax.data import augment
from fsl_jax.data.augment import Augment, Preprocess, prepare, prepare_batch, prepare_episode
from fsl_jax.types import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 9, 9, 3), dtype=np.uint8)
RAW = Preprocess(size=9, channels=3, fit="pad", mean=(0.0,), std=(1.0,))
EVERYTHING = {
    "flip": True,
    "shift": 2,
    "light": 0.2,
    "crop": 0.4,
    "crop_size": 7,
    "rotate": 20.0,
    "scale": 0.1,
    "shear": 0.2,
    "colour": 0.3,
    "grey": 0.2,
    "erase": 0.5,
}


def keys(count=64):
    return jax.random.split(jax.random.key(0), count)


everything = jax.jit(Augment(**EVERYTHING))


def only(**changes):
    """An augmentation that does nothing else."""
    return Augment(**{"flip": False, "shift": 0, "light": 0.0} | changes)


def changed(function, images, **options):
    """Changes each photo by a key of its own."""
    return np.asarray(jax.jit(jax.vmap(lambda k, i: function(k, i, **options)))(keys(len(images)), images))


def floats(height, width, channels=3, count=64):
    """Photos of random floats, of which no two pixels are equal."""
    return np.random.default_rng(1).uniform(0, 255, (count, height, width, channels)).astype(np.float32)


def places(height, width, count=64):
    """Photos whose two channels say where a pixel lies."""
    row, column = np.mgrid[:height, :width].astype(np.float32)
    return np.tile(np.stack([row, column], axis=-1), (count, 1, 1, 1))


def test_preprocessing_scales_and_normalises_each_channel():
    preprocess = Preprocess(size=9, channels=3, fit="pad", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (IMAGES / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(preprocess(jnp.asarray(IMAGES)), expected, atol=1e-5)


def test_about_half_of_the_photos_are_mirrored_and_the_others_left():
    flipped = np.asarray(jax.vmap(augment.flip)(keys(), IMAGES))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (flipped == IMAGES).all((1, 2, 3))).all()
    assert 16 < mirrored.sum() < 48


def test_shifts_reach_every_offset_and_repeat_the_edge():
    shifted = np.asarray(jax.vmap(lambda k, i: augment.shift(k, i, most=1))(keys(), IMAGES))
    offsets = set()
    for before, after in zip(IMAGES, shifted, strict=True):
        padded = np.pad(before, ((1, 1), (1, 1), (0, 0)), mode="edge")
        found = [(i, j) for i in range(3) for j in range(3) if (padded[i : i + 9, j : j + 9] == after).all()]
        assert found
        offsets.add(found[0])
    assert len(offsets) == 9


def test_light_changes_contrast_and_brightness_within_bounds():
    image = np.full((9, 9, 1), 100, np.uint8)
    levels = np.array([int(augment.light(key, image, most=0.3)[0, 0, 0]) for key in keys(20)])
    assert levels.min() >= 70
    assert levels.max() <= 130
    assert len(set(levels.tolist())) > 5


def test_light_equals_pillow_for_the_same_factors():
    key, most = jax.random.key(5), 0.4
    contrast, brightness = jax.random.uniform(jax.random.fold_in(key, 2), (2,), minval=0.6, maxval=1.4)
    grey = IMAGES[0, :, :, :1]
    photo = ImageEnhance.Contrast(Image.fromarray(grey[..., 0])).enhance(float(contrast))
    photo = ImageEnhance.Brightness(photo).enhance(float(brightness))
    got = np.asarray(augment.light(key, grey, most=most))[..., 0].astype(int)
    inside = (np.asarray(photo) > 2) & (np.asarray(photo) < 253)
    # Pillow rounds after each of the two.
    assert np.abs(got - np.asarray(photo))[inside].max() <= 3


def boxes(cropped):
    """Reads the rectangles from cropped `places`: (start, side) of rows and of columns, one row a photo."""
    found = []
    for axis in (0, 1):
        line = cropped[..., axis].mean(axis=2 - axis)
        size = line.shape[1]
        # Away from the edges, where pixels beyond them are missing from the averages.
        step = (line[:, -3] - line[:, 2]) / (size - 5)
        found += [line[:, 2] + 0.5 - 2.5 * step, step * size]
    return np.stack(found, axis=1)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 30)])
def test_crops_keep_the_share_and_the_aspect_that_were_asked_for(height, width):
    cropped = changed(augment.crop, places(height, width), least=0.3, size=0)
    top, tall, left, wide = boxes(cropped).T
    area, aspect = tall * wide / (height * width), (wide / width) / (tall / height)
    assert cropped.shape == (64, height, width, 2)
    assert 0.3 - 1e-3 <= area.min() < 0.4
    assert 0.9 < area.max() <= 1.001
    assert 0.6 < area.mean() < 0.72
    assert 3 / 4 - 1e-3 <= aspect.min() < 0.85
    assert 1.2 < aspect.max() <= 4 / 3 + 1e-3
    assert min(top.min(), left.min()) >= -0.01
    assert (top + tall).max() <= height + 0.01
    assert (left + wide).max() <= width + 0.01
    for start, room in ((top, height - tall), (left, width - wide)):
        place = (start / room)[room > 1]
        assert place.min() < 0.1
        assert place.max() > 0.9


@pytest.mark.parametrize("size", [0, 9, 16, 40])
def test_a_crop_equals_the_resized_box_of_pillow(size):
    images = floats(24, 24, 1, 8)
    top, tall, left, wide = boxes(changed(augment.crop, places(24, 24, 8), least=0.3, size=24)).T
    got = changed(augment.crop, images, least=0.3, size=size)
    for i, image in enumerate(images):
        box = np.clip([left[i], top[i], left[i] + wide[i], top[i] + tall[i]], 0, 24)
        side = size or 24
        expected = Image.fromarray(image[..., 0]).resize(
            (side, side), Image.Resampling.BILINEAR, box=tuple(box)
        )
        np.testing.assert_allclose(got[i, ..., 0], np.asarray(expected), atol=0.1)


def test_a_crop_size_without_a_crop_resizes_the_whole_photo():
    got = np.asarray(jax.jit(only(crop_size=5))(jax.random.key(0), jnp.asarray(IMAGES[:4])))
    for image, small in zip(IMAGES, got, strict=False):
        expected = np.asarray(Image.fromarray(image).resize((5, 5), Image.Resampling.BILINEAR))
        assert np.abs(small.astype(int) - expected).max() <= 1
    same = only(crop_size=9)(jax.random.key(0), jnp.asarray(IMAGES[:4]))
    np.testing.assert_array_equal(same, IMAGES[:4])


@pytest.mark.parametrize(("height", "width"), [(21, 21), (16, 21)])
def test_a_rotation_equals_that_of_scikit_image(height, width):
    images = floats(height, width, 1, 32)
    row, column = np.moveaxis(changed(augment.affine, places(height, width, 32), rotate=40.0), -1, 0)
    middle = np.s_[:, height // 2, width // 2]
    down = row[:, height // 2, width // 2 + 1] - row[middle]
    right = column[:, height // 2, width // 2 + 1] - column[middle]
    angles = np.rad2deg(np.arctan2(down, right))
    np.testing.assert_allclose(np.hypot(down, right), 1, atol=1e-4)
    assert -40 <= angles.min() < -25
    assert 25 < angles.max() <= 40
    got = changed(augment.affine, images, rotate=40.0)
    for image, turned, angle in zip(images, got, angles, strict=True):
        expected = skimage_rotate(image[..., 0], angle, order=1, mode="edge", preserve_range=True)
        np.testing.assert_allclose(turned[..., 0], expected, atol=0.1)


@pytest.mark.parametrize(
    "options", [{"scale": 0.2}, {"shear": 0.3}, {"rotate": 20.0, "scale": 0.2, "shear": 0.3}]
)
def test_an_affine_map_equals_that_of_scipy_and_stays_within_its_bounds(options):
    images, size = floats(21, 21, 1, 32), 21
    row, column = np.moveaxis(changed(augment.affine, places(size, size, 32), **options), -1, 0)
    middle = size // 2
    matrices = np.array(
        [
            [
                (at[:, middle + 1, middle] - at[:, middle, middle]),
                (at[:, middle, middle + 1] - at[:, middle, middle]),
            ]
            for at in (row, column)
        ]
    )
    for image, got, matrix in zip(
        images, changed(augment.affine, images, **options), np.moveaxis(matrices, -1, 0), strict=True
    ):
        offset = middle - matrix @ [middle, middle]
        expected = affine_transform(image[..., 0], matrix, offset, order=1, mode="nearest")
        np.testing.assert_allclose(got[..., 0], expected, atol=0.1)
    if options == {"scale": 0.2}:
        tall, wide = 1 / matrices[0, 0], 1 / matrices[1, 1]
        np.testing.assert_allclose(matrices[[0, 1], [1, 0]], 0, atol=1e-4)
        for factor in (tall, wide):
            assert 0.8 - 1e-4 <= factor.min() < 0.87
            assert 1.13 < factor.max() <= 1.2 + 1e-4
        assert np.abs(tall - wide).max() > 0.1
    if options == {"shear": 0.3}:
        np.testing.assert_allclose(matrices[[0, 1], [0, 1]], 1, atol=0.1)
        assert 0.2 < np.abs(matrices[[0, 1], [1, 0]]).max() <= 0.3 + 1e-4


def test_a_round_pattern_stays_as_it_is_when_it_turns_by_any_angle():
    row, column = np.mgrid[:31, :31] - 15.0
    pattern = np.round(100 + 100 * np.exp(-(row**2 + column**2) / 40)).astype(np.uint8)[None, ..., None]
    turned = changed(augment.affine, np.repeat(pattern, 16, axis=0), rotate=180.0)
    assert np.abs(turned.astype(int) - pattern).max() <= 2


def test_colour_turns_hue_and_scales_saturation_and_keeps_luma():
    images = 100 + floats(8, 8) / 5
    got = changed(augment.colour, images, most=0.3)
    before, after = (rgb2yiq(photos.astype(float)) for photos in (images, got))
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=1e-3)
    turned = (after[..., 1] + 1j * after[..., 2]) / (before[..., 1] + 1j * before[..., 2])
    by_photo = turned.mean((1, 2))
    np.testing.assert_allclose(turned, by_photo[:, None, None] + 0 * turned, atol=2e-2)
    saturation, hue = np.abs(by_photo), np.rad2deg(np.angle(by_photo))
    assert 0.7 - 1e-3 <= saturation.min() < 0.8
    assert 1.2 < saturation.max() <= 1.3 + 1e-3
    assert -27.1 <= hue.min() < -18
    assert 18 < hue.max() <= 27.1


def test_grey_photos_have_the_luma_of_pillow_and_the_others_stay():
    got = changed(augment.grey, IMAGES, probability=0.5)
    grey = (got == got[..., :1]).all((1, 2, 3))
    np.testing.assert_array_equal(got[~grey], IMAGES[~grey])
    assert 16 < grey.sum() < 48
    for image, luma in zip(IMAGES[grey], got[grey], strict=True):
        assert np.abs(luma[..., 0].astype(int) - np.asarray(Image.fromarray(image).convert("L"))).max() <= 1


def test_one_rectangle_is_painted_with_the_mean_colour():
    images = floats(40, 40)
    got = changed(augment.erase, images, probability=1.0)
    shares, aspects = [], []
    for image, after in zip(images, got, strict=True):
        erased = (after != image).any(-1)
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        np.testing.assert_allclose(
            after[erased], np.tile(image.mean((0, 1)), (erased.sum(), 1)), rtol=1e-4, atol=0.01
        )
        shares.append(erased.mean())
        aspects.append(len(columns) / len(rows))
    # Sides are whole pixels: the smallest side is 3, rounded by up to a half.
    assert 0.02 * 5 / 6 <= min(shares) < 0.05
    assert 0.15 < max(shares) <= 0.2 * 7 / 6
    assert 0.3 * 5 / 7 <= min(aspects) < 0.6
    assert 2 < max(aspects) <= 3.3 * 7 / 5


def test_photos_are_erased_with_the_probability_that_was_asked_for():
    images = floats(9, 9)
    erased = (changed(augment.erase, images, probability=0.25) != images).any((1, 2, 3))
    assert 6 < erased.sum() < 30


def test_changes_follow_each_other_in_the_stated_order_and_are_rounded_once():
    got = everything(jax.random.key(0), jnp.asarray(IMAGES))

    def chain(key, image):
        image = augment.flip(key, image.astype(jnp.float32))
        image = augment.affine(key, image, rotate=20.0, scale=0.1, shear=0.2)
        image = augment.crop(key, image, least=0.4, size=7)
        image = augment.shift(key, image, most=2)
        image = augment.light(key, image, most=0.2)
        image = augment.colour(key, image, most=0.3)
        image = augment.grey(key, image, probability=0.2)
        return augment.erase(key, image, probability=0.5)

    expected = jax.jit(jax.vmap(chain))(keys(), jnp.asarray(IMAGES))
    off = np.abs(np.asarray(got, np.float32) - np.asarray(expected))
    assert off.max() <= 0.51


def test_flip_shift_and_light_alone_change_whole_numbers_as_they_always_did():
    got = Augment(flip=True, shift=2, light=0.3)(jax.random.key(0), jnp.asarray(IMAGES))
    moved = changed(augment.shift, changed(augment.flip, IMAGES), most=2)
    np.testing.assert_array_equal(got, changed(augment.light, moved, most=0.3))


def test_the_same_key_gives_the_same_changes_and_another_does_not():
    first, again, other = (everything(jax.random.key(k), jnp.asarray(IMAGES)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": 0.4},
        {"rotate": 30.0},
        {"scale": 0.2},
        {"shear": 0.3},
        {"colour": 0.5},
        {"erase": 1.0},
        {"light": 0.4},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_photo_of_a_batch_is_changed_in_its_own_way(changes):
    same = jnp.asarray(np.tile(IMAGES[:1], (8, 1, 1, 1)))
    got = np.asarray(jax.jit(only(**changes))(jax.random.key(0), same))
    assert len(np.unique(got.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_a_crop_size_is_the_side_of_the_result_whatever_the_leading_axes(leading):
    images = jnp.zeros((*leading, 9, 9, 3), jnp.uint8)
    got = jax.jit(only(crop=0.4, crop_size=7))(jax.random.key(0), images)
    assert got.shape == (*leading, 7, 7, 3)
    assert got.dtype == jnp.uint8


def test_photos_of_one_channel_keep_their_values_where_only_colour_would_change():
    images = jnp.asarray(IMAGES[..., :1])
    np.testing.assert_array_equal(only(colour=0.5, grey=1.0)(jax.random.key(0), images), images)


def test_changes_are_the_same_inside_jit():
    plain, compiled = (f(jax.random.key(0), jnp.asarray(IMAGES)) for f in (Augment(**EVERYTHING), everything))
    # Sums in another order may fall on the other side of a half.
    assert np.abs(np.asarray(plain, int) - np.asarray(compiled, int)).max() <= 1


def uint8_episode():
    episode = random_episode(tasks=1, way=2, shot=1, queries=1, side=9, channels=3)
    photos = jnp.asarray(IMAGES[:2][None])
    return episode.replace(
        support=episode.support.replace(image=photos), query=episode.query.replace(image=photos)
    )


def test_support_and_query_of_an_episode_are_changed_by_keys_of_their_own():
    episode, change, key = uint8_episode(), Augment(flip=True, shift=2, light=0.0), jax.random.key(3)
    prepared = prepare_episode(episode, RAW, change, key)
    for part, got in enumerate((prepared.support, prepared.query)):
        expected = RAW(change(jax.random.fold_in(key, part), episode.support.image))
        np.testing.assert_array_equal(got.image, expected)
    assert (prepared.support.image != prepared.query.image).any()


def test_a_batch_is_changed_by_the_key_and_keeps_its_other_columns():
    batch = Batch(jnp.asarray(IMAGES), jnp.arange(64), {"text": jnp.ones((64, 2))})
    change, key = Augment(flip=True, shift=2, light=0.0), jax.random.key(3)
    prepared = prepare_batch(batch, RAW, change, key)
    np.testing.assert_array_equal(prepared.image, RAW(change(key, batch.image)))
    np.testing.assert_array_equal(prepared.label, batch.label)
    np.testing.assert_array_equal(prepared.columns["text"], batch.columns["text"])


def test_preparing_picks_by_type():
    change, key = only(flip=True), jax.random.key(3)
    episode, batch = uint8_episode(), Batch(jnp.asarray(IMAGES), jnp.arange(64))
    for photos, by_type in ((episode, prepare_episode), (batch, prepare_batch)):
        got, expected = (f(photos, RAW, change, key) for f in (prepare, by_type))
        jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_features_are_neither_changed_nor_scaled():
    features = jax.random.normal(jax.random.key(0), (6, 1, 1, 5))
    prepared = prepare(Batch(features, jnp.arange(6)), RAW, Augment(**EVERYTHING), jax.random.key(1))
    np.testing.assert_array_equal(prepared.image, features)


MASKED = np.concatenate([IMAGES, np.random.default_rng(2).integers(0, 256, (64, 9, 9, 1), np.uint8)], axis=-1)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.25,)), ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))])
def test_a_mask_is_scaled_to_0_to_1_and_not_normalised(mean, std):
    got = Preprocess(size=9, channels=4, fit="pad", mean=mean, std=std)(jnp.asarray(MASKED))
    colours = Preprocess(size=9, channels=3, fit="pad", mean=mean, std=std)(jnp.asarray(IMAGES))
    np.testing.assert_array_equal(got[..., :3], colours)
    np.testing.assert_allclose(got[..., 3], MASKED[..., 3] / 255.0, atol=1e-7)


@pytest.mark.parametrize(
    "change",
    [{"flip": True}, {"shift": 2}, {"crop": 0.4, "crop_size": 7}, {"rotate": 20.0}],
    ids=lambda change: next(iter(change)),
)
def test_a_mask_moves_with_its_photo(change):
    # A mask that is the red channel stays it.
    twice = np.concatenate([IMAGES, IMAGES[..., :1]], axis=-1)
    got = np.asarray(jax.jit(only(**change))(jax.random.key(0), jnp.asarray(twice)))
    np.testing.assert_array_equal(got[..., 3], got[..., 0])
    assert got.shape != twice.shape or (got != twice).any()


@pytest.mark.parametrize(
    ("change", "options"),
    [(augment.light, {"most": 0.4}), (augment.colour, {"most": 0.5}), (augment.grey, {"probability": 0.5})],
)
def test_changes_of_colour_do_not_see_a_mask_and_leave_it_as_it_is(change, options):
    got = changed(change, MASKED, **options)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[..., :3], changed(change, IMAGES, **options))
    np.testing.assert_array_equal(got[..., 3], MASKED[..., 3])


def test_what_is_painted_over_is_no_longer_in_the_mask():
    full = np.concatenate([IMAGES, np.full((64, 9, 9, 1), 255, np.uint8)], axis=-1)
    got = changed(augment.erase, full, probability=0.5)
    np.testing.assert_array_equal(got[..., :3], changed(augment.erase, IMAGES, probability=0.5))
    differs = (got[..., :3] != IMAGES).any(-1)
    assert set(np.unique(got[..., 3])) == {0, 255}
    # A random pixel may be the mean colour already.
    assert (got[..., 3][differs] == 0).all()
    assert differs.sum() > 0.9 * (got[..., 3] == 0).sum()


def test_photos_with_a_mask_are_changed_as_those_without():
    full = np.concatenate([IMAGES, np.full((64, 9, 9, 1), 255, np.uint8)], axis=-1)
    got, plain = (np.asarray(everything(jax.random.key(0), jnp.asarray(photos))) for photos in (full, IMAGES))
    assert np.abs(got[..., :3].astype(int) - plain).max() <= 1  # sums in another order
    assert set(np.unique(got[..., 3])) == {0, 255}  # the edges of a full mask that turns are repeated


def test_evaluation_changes_no_photo():
    episode = random_episode(tasks=1, way=2, shot=1, queries=1, side=9, channels=3)
    raw = jax.tree.map(
        lambda a: jnp.clip(a * 60 + 128, 0, 255).astype(jnp.uint8) if a.ndim > 2 else a, episode
    )
    preprocess = Preprocess(size=9, channels=3, fit="pad", mean=(0.0,), std=(1.0,))
    prepared = prepare_episode(raw, preprocess, None, None)
    np.testing.assert_allclose(prepared.query.image, raw.query.image / 255.0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Preprocess(size=8, channels=3, fit="pad", mean=(0.0, 0.0), std=(1.0,)), "mean has 2 values"),
        (
            lambda: Preprocess(size=8, channels=4, fit="pad", mean=(0.0,), std=(1.0,) * 4),
            "std has 4 values for 3 colours and a mask: give one, or one a colour",
        ),
        (
            lambda: Preprocess(size=8, channels=3, fit="pad", mean=(0.0,), std=(0.0,)),
            "expected values above 0",
        ),
        (lambda: only(shift=-1), "augment.shift is -1; expected pixels, at least 0"),
        (lambda: only(light=1.0), "augment.light is 1.0; expected 0 to below 1"),
        (lambda: only(crop=1.2), "augment.crop is 1.2; expected 0 to 1, and 0 for none"),
        (lambda: only(crop_size=-8), "augment.crop_size is -8"),
        (lambda: only(rotate=270.0), "augment.rotate is 270.0; expected 0 to 180"),
        (lambda: only(scale=1.0), "augment.scale is 1.0; expected 0 to below 1"),
        (lambda: only(shear=1.5), "augment.shear is 1.5; expected 0 to 0.9"),
        (lambda: only(colour=-0.1), "augment.colour is -0.1"),
        (lambda: only(grey=2.0), "augment.grey is 2.0"),
        (lambda: only(erase=float("nan")), "augment.erase is nan"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
