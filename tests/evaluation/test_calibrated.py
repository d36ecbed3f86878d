"""Distribution calibration, against NumPy and scikit-learn written from the paper."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fsl_jax.evaluation import calibrated
from fsl_jax.evaluation.calibrated import BaseLabels, DistributionCalibration

DIMENSIONS = 12


def base_photos(count, labels=9, seed=0):
    """Photos of labels whose spread differs; [labels, count, d]."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.1, 0.6, (labels, 1, DIMENSIONS))
    centres = rng.standard_normal((labels, 1, DIMENSIONS))
    return (centres + spread * rng.standard_normal((labels, count, DIMENSIONS))).astype(np.float32)


def base_of(photos):
    labels, count, dimensions = photos.shape
    return BaseLabels.of(photos.reshape(-1, dimensions), np.repeat(np.arange(labels), count))


def calibration_from_the_paper(photos, vector, *, nearest, alpha):
    """Algorithm 1, equations 6 and 7: mean and covariance around one support photo."""
    means = [of_label.mean(axis=0) for of_label in photos]
    covariances = [np.cov(of_label.T) for of_label in photos]
    order = np.argsort([np.linalg.norm(mean - vector) for mean in means])[:nearest]
    mean = np.mean([*(means[i] for i in order), vector], axis=0)
    return mean, np.mean([covariances[i] for i in order], axis=0) + alpha


@pytest.mark.parametrize("count", [2, 5, DIMENSIONS, 40])
def test_factors_square_to_the_covariance_of_each_label(count):
    photos = base_photos(count)
    base = base_of(photos)
    for factor, mean, of_label in zip(base.factor, base.mean, photos, strict=True):
        np.testing.assert_allclose(factor.T @ factor, np.cov(of_label.T), atol=1e-5)
        np.testing.assert_allclose(mean, of_label.mean(axis=0), atol=1e-6)


def test_labels_of_unequal_size_have_their_own_covariance_and_a_single_photo_none():
    photos = base_photos(20)
    kept = [photos[0], photos[1, :3], photos[2, :1]]
    base = BaseLabels.of(np.concatenate(kept), np.repeat(np.arange(3), [20, 3, 1]))
    np.testing.assert_allclose(base.factor[0].T @ base.factor[0], np.cov(photos[0].T), atol=1e-5)
    np.testing.assert_allclose(base.factor[1].T @ base.factor[1], np.cov(photos[1, :3].T), atol=1e-5)
    np.testing.assert_array_equal(base.factor[2], 0.0)


@pytest.mark.parametrize(("nearest", "alpha"), [(1, 0.0), (2, 0.21), (4, 1.5)])
@pytest.mark.parametrize("count", [5, 40])
def test_mean_and_covariance_are_those_of_the_paper(nearest, alpha, count):
    photos = base_photos(count)
    vectors = np.random.default_rng(3).standard_normal((6, DIMENSIONS)).astype(np.float32)
    method = DistributionCalibration(nearest=nearest, alpha=alpha)
    around = method.calibrate(base_of(photos), jnp.asarray(vectors))
    for mean, factor, vector in zip(around.mean, around.factor, vectors, strict=True):
        wanted = calibration_from_the_paper(photos, vector, nearest=nearest, alpha=alpha)
        np.testing.assert_allclose(mean, wanted[0], atol=1e-5)
        np.testing.assert_allclose(factor.T @ factor, wanted[1], atol=1e-5)


def test_draws_have_the_calibrated_moments():
    method, photos = DistributionCalibration(), base_photos(40)
    vector = np.random.default_rng(4).standard_normal((1, DIMENSIONS)).astype(np.float32)
    around = method.calibrate(base_of(photos), jnp.asarray(vector))
    drawn = calibrated.samples(around, method.normals(jax.random.key(0), around, draws=50_000))[0]
    mean, covariance = calibration_from_the_paper(photos, vector[0], nearest=2, alpha=0.21)
    np.testing.assert_allclose(np.mean(drawn, axis=0), mean, atol=0.015)
    np.testing.assert_allclose(np.cov(np.asarray(drawn).T), covariance, atol=0.02)


def episode(seed, *, shot, photos):
    """Support [5, shot, d] and 75 queries, beside base labels, so that some queries are hard."""
    rng = np.random.default_rng(seed)
    centres = (
        0.6 * rng.standard_normal((5, 1, DIMENSIONS)) + photos.mean(axis=1)[rng.permutation(9)[:5], None]
    )
    drawn = (centres + 1.2 * rng.standard_normal((5, shot + 15, DIMENSIONS))).astype(np.float32)
    return drawn[:, :shot], drawn[:, shot:].reshape(75, DIMENSIONS)


@pytest.mark.parametrize(("shot", "count"), [(1, 3), (1, 40), (5, 3), (5, 40)])
def test_episodes_are_labelled_as_by_scikit_learn_on_the_same_draws(shot, count):
    """With 3 photos a base label draws are never made, with 40 they are."""
    method, photos, way = DistributionCalibration(draws=150), base_photos(count), 5
    base, label = base_of(photos), np.repeat(np.arange(way), shot)
    run = jax.jit(method.__call__)
    right, exact = np.repeat(np.arange(way), 15), []
    for seed in range(50 if (shot, count) in ((1, 40), (5, 3)) else 10):
        support, query = episode(seed, shot=shot, photos=photos)
        key = jax.random.key(seed)
        around = method.calibrate(base, jnp.asarray(support.reshape(-1, DIMENSIONS)))
        normal = method.normals(key, around, draws=150 // shot)
        given = (np.asarray(each) for each in (around.mean, normal, around.factor))
        drawn = np.stack([mean + each @ factor for mean, each, factor in zip(*given, strict=True)])
        rows = np.concatenate([support.reshape(-1, DIMENSIONS), drawn.reshape(-1, DIMENSIONS)])
        labels = np.concatenate([label, np.repeat(label, drawn.shape[1])])
        reference = LogisticRegression(max_iter=1000, tol=1e-6).fit(rows.astype(np.float64), labels)
        accuracy = np.mean(np.asarray(run(key, base, support, query)) == right)
        assert accuracy == pytest.approx(np.mean(reference.predict(query) == right), abs=1e-3)
        exact.append(accuracy)
    assert 0.4 < np.mean(exact) < 0.97  # the episodes are neither hopeless nor easy


@pytest.mark.parametrize("count", [3, 40])
def test_the_regression_is_scikit_learns(count):
    method, photos = DistributionCalibration(draws=150), base_photos(count)
    support, _ = episode(0, shot=1, photos=photos)
    around = method.calibrate(base_of(photos), jnp.asarray(support[:, 0]))
    normal = method.normals(jax.random.key(0), around, draws=150)
    rows = np.concatenate([support[:, 0], np.asarray(calibrated.samples(around, normal)).reshape(750, -1)])
    labels = np.concatenate([np.arange(5), np.repeat(np.arange(5), 150)])
    reference = LogisticRegression(tol=1e-9, max_iter=10_000).fit(rows.astype(np.float64), labels)
    weight, bias = method.fit(jnp.asarray(support), around, normal)
    np.testing.assert_allclose(weight, reference.coef_.T, atol=6e-3)
    np.testing.assert_allclose(
        bias - bias.mean(), reference.intercept_ - reference.intercept_.mean(), atol=6e-3
    )


def test_both_orders_of_the_products_give_the_same_logits():
    photos = base_photos(40)
    around = DistributionCalibration().calibrate(base_of(photos), jnp.asarray(photos[:3, 0]))
    normal = jax.random.normal(jax.random.key(0), (3, 400, around.factor.shape[1]))
    weight = jax.random.normal(jax.random.key(1), (DIMENSIONS, 4))
    made = calibrated.samples(around, normal).reshape(1200, DIMENSIONS) @ weight
    few = dataclasses.replace(around, factor=around.factor[:, :2])
    made_of_few = calibrated.samples(few, normal[:, :, :2]).reshape(1200, DIMENSIONS) @ weight
    np.testing.assert_allclose(calibrated._logits_of_draws(around, normal)(weight), made, atol=1e-4)
    np.testing.assert_allclose(
        calibrated._logits_of_draws(few, normal[:, :, :2])(weight), made_of_few, atol=1e-4
    )


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="3 draws a label are shared by 5 shots"):
        DistributionCalibration(draws=3).check([1, 5])
    with pytest.raises(ValueError, match="nearest is 0"):
        DistributionCalibration(nearest=0).check([1])
