"""Preparing and augmenting photos, against NumPy and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_episode
from PIL import Image, ImageEnhance

from fsl_jax.data import augment
from fsl_jax.data.augment import Augment, Preprocess, prepare_episode

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 9, 9, 3), dtype=np.uint8)


def keys(count=64):
    return jax.random.split(jax.random.key(0), count)


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


def test_the_same_key_gives_the_same_changes_and_another_does_not():
    change = Augment(flip=True, shift=2, light=0.2)
    first, again, other = (change(jax.random.key(k), jnp.asarray(IMAGES)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


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
            lambda: Preprocess(size=8, channels=3, fit="pad", mean=(0.0,), std=(0.0,)),
            "expected values above 0",
        ),
        (lambda: Augment(flip=True, shift=-1, light=0.0), "shift is -1"),
        (lambda: Augment(flip=True, shift=0, light=1.0), "light 1.0"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
