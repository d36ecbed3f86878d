"""A head that starts as a whitening, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table_of_counts

from fsl_jax.data.augment import Augment, Preprocess
from fsl_jax.whitening import PASSES, whitened_head, within_label_whitening

LABELS = np.repeat(np.arange(40), 5)


def points():
    """Labels differ a little in every direction; photos of one differ much in the first."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 6))[LABELS] + rng.standard_normal((200, 6)) * [10, 1, 1, 1, 1, 0.1] + 3.0


def spread_within(values):
    means = np.stack([values[label == LABELS].mean(axis=0) for label in range(40)])
    apart = values - means[LABELS]
    return apart.T @ apart / len(values)


def test_differences_within_labels_have_no_preferred_direction_after_it():
    kernel, bias = within_label_whitening(points(), LABELS, epsilon=1e-9)
    after = points() @ kernel + bias
    np.testing.assert_allclose(spread_within(after), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(after.mean(axis=0), 0, atol=1e-2)


def test_epsilon_is_a_share_of_the_largest_variance():
    kernel, _ = within_label_whitening(points(), LABELS, epsilon=0.01)
    variance, directions = np.linalg.eigh(spread_within(points()))
    expected = directions @ np.diag((variance + 0.01 * variance[-1]) ** -0.5) @ directions.T
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "epsilon", "message"),
    [(LABELS, 0.0, "expected above 0"), (np.arange(200), 0.1, "needs a label with two photos")],
)
def test_what_cannot_be_whitened_is_said(labels, epsilon, message):
    with pytest.raises(ValueError, match=message):
        within_label_whitening(points(), labels, epsilon=epsilon)


def test_plain_and_augmented_photos_are_taken_into_account():
    table = table_of_counts([3] * 6, side=8)
    preprocess = Preprocess(size=8, channels=1, fit="pad", mean=(0.5,), std=(0.5,))
    augment = Augment(flip=True, shift=1, light=0.0)
    seen = []

    def embed(images):
        jax.debug.callback(lambda values: seen.append(np.asarray(values)), images)
        return jnp.mean(images, axis=1).reshape(images.shape[0], -1)

    head = whitened_head(embed, table, preprocess, augment, jax.random.key(0), epsilon=0.1)
    jax.effects_barrier()
    assert head["kernel"].shape == (8, 8)
    plain = np.asarray(preprocess(table.images))
    assert len(seen) == 1 + PASSES
    np.testing.assert_allclose(seen[0][: len(plain)], plain, atol=1e-6)
    assert all(not np.allclose(photos[: len(plain)], plain) for photos in seen[1:])
