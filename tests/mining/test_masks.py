"""Masks of positives and negatives against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import reference

from fsl_jax.mining import masks


@pytest.mark.parametrize("with_valid", [False, True])
def test_masks_equal_the_loops(with_valid):
    made = jax.jit(masks.pair_masks)
    rng = np.random.default_rng(0)
    for _ in range(100):
        label, other_label = rng.integers(0, 4, 6), rng.integers(0, 4, 9)
        row, other_row = rng.permutation(20)[:6], rng.permutation(20)[:9]
        valid = rng.random(9) < 0.7 if with_valid else None
        got = made(label, other_label, row, other_row, valid=valid)
        expected = reference.pair_masks(label, other_label, row, other_row, valid)
        np.testing.assert_array_equal(got.positive, expected[0])
        np.testing.assert_array_equal(got.negative, expected[1])


def test_a_photo_is_not_its_own_positive_wherever_it_lies():
    label = jnp.asarray([5, 5, 7])
    found = masks.pair_masks(label, label[::-1], jnp.asarray([0, 1, 2]), jnp.asarray([2, 1, 0]))
    np.testing.assert_array_equal(found.positive, [[False, True, False], [False, False, True], [False] * 3])
    np.testing.assert_array_equal(
        found.negative, [[True, False, False], [True, False, False], [False, True, True]]
    )


def test_a_photo_that_is_twice_in_the_batch_is_no_positive_of_itself():
    label, row = jnp.asarray([1, 1, 1]), jnp.asarray([4, 4, 9])
    found = masks.pair_masks(label, label, row, row)
    np.testing.assert_array_equal(
        found.positive, [[False, False, True], [False, False, True], [True, True, False]]
    )
    assert not found.negative.any()


def test_a_reference_that_is_not_valid_is_neither():
    label, row = jnp.asarray([1, 1, 2]), jnp.arange(3)
    found = masks.pair_masks(label, label, row, row, valid=jnp.asarray([True, False, False]))
    np.testing.assert_array_equal(found.positive, [[False] * 3, [True, False, False], [False] * 3])
    np.testing.assert_array_equal(found.negative, [[False] * 3, [False] * 3, [True, False, False]])


@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.uint8])
def test_masks_are_boolean_for_every_dtype_of_labels(dtype):
    label = jnp.asarray([0, 1, 1], dtype)
    found = masks.pair_masks(label, label, jnp.arange(3), jnp.arange(3))
    assert found.positive.dtype == found.negative.dtype == bool
    assert found.positive.sum() == 2
