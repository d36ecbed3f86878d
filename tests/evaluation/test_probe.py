"""Few-shot classification on frozen embeddings, against loops and scikit-learn."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fsl_jax.evaluation import _few_shot, probe

GRID = {"ways": (3, 5), "shots": (1, 4), "queries": 3, "repetitions": 6, "distance": "euclidean"} | {
    "classifiers": ("1-nn", "prototype")  # the logistic regression takes seconds to compile for each way
}


def photos(rng, labels=8, count=9, dimensions=6, spread=1.0):
    label = np.repeat(np.arange(labels), count)
    centres = 2.0 * rng.standard_normal((labels, dimensions))
    return (centres[label] + spread * rng.standard_normal((len(label), dimensions))).astype(np.float32), label


@pytest.fixture(scope="module")
def episode():
    """Support [way, shots, d] of which the last photo does not count, and queries."""
    rng = np.random.default_rng(0)
    support = (
        rng.standard_normal((4, 6, 8)).astype(np.float32) + np.arange(4, dtype=np.float32)[:, None, None]
    )
    return support, np.arange(6) < 5, rng.standard_normal((40, 8)).astype(np.float32) + 1.5


def test_the_nearest_photo_gives_the_label(episode):
    support, there, query = episode
    distances = np.linalg.norm(query[:, None, None] - support[None, :, there], axis=3).reshape(40, -1)
    expected = distances.argmin(axis=1) // 5
    np.testing.assert_array_equal(_few_shot.nearest_neighbours(support, there, query, neighbours=1), expected)


@pytest.mark.parametrize("neighbours", [2, 5, 100])
def test_the_most_votes_win_and_among_equals_the_nearest(episode, neighbours):
    support, there, query = episode
    for photo, found in zip(
        query, _few_shot.nearest_neighbours(support, there, query, neighbours=neighbours), strict=True
    ):
        distances = np.linalg.norm(support[:, there] - photo, axis=2).reshape(-1)
        voters = (np.argsort(distances) // 5)[:neighbours]
        votes = collections.Counter(voters.tolist())
        best = [label for label, count in votes.items() if count == max(votes.values())]
        assert found == next(label for label in voters if label in best)


def test_the_nearest_mean_gives_the_label(episode):
    support, there, query = episode
    distances = np.linalg.norm(query[:, None] - support[:, there].mean(axis=1)[None], axis=2)
    np.testing.assert_array_equal(_few_shot.prototype(support, there, query), distances.argmin(axis=1))


def test_logistic_regression_finds_scikit_learns_optimum(episode):
    support, there, query = episode
    features, label = support[:, there].reshape(20, 8), np.repeat(np.arange(4), 5)
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000).fit(features.astype(np.float64), label)
    weight, bias = _few_shot.fit_logistic(
        support.reshape(24, 8), np.repeat(np.arange(4), 6), np.tile(there, 4), way=4
    )
    np.testing.assert_allclose(weight, model.coef_.T, atol=2e-4)
    np.testing.assert_allclose(bias - bias.mean(), model.intercept_ - model.intercept_.mean(), atol=1e-3)
    np.testing.assert_array_equal(_few_shot.logistic(support, there, query), model.predict(query))


def drawn(key, counts, *, way, needed, repetitions=40):
    counts = np.asarray(counts)
    keys = jax.random.split(key, repetitions)
    start = np.cumsum(counts) - counts
    return np.asarray(
        probe._draw_all(keys, start, counts, way=way, photos=needed, most=int(counts.max()))
    ), np.repeat(np.arange(len(counts)), counts)


def test_draws_are_of_one_label_each_and_never_repeat_a_photo():
    rows, label = drawn(jax.random.key(0), [5, 9, 6, 7], way=3, needed=5)
    for repetition in rows:
        labels = label[repetition]
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0].tolist())) == 3
        assert len(set(repetition.reshape(-1).tolist())) == 15


def test_draws_reach_every_label_and_photo():
    rows, _ = drawn(jax.random.key(1), [5, 9, 6, 7], way=2, needed=3, repetitions=200)
    assert set(rows.reshape(-1).tolist()) == set(range(27))


@pytest.mark.parametrize("shot", [1, 2, 4])
def test_a_cell_is_the_share_of_right_queries_with_its_first_support_photos(shot):
    embeddings, _ = photos(np.random.default_rng(9), spread=3.0)
    rows, _ = drawn(jax.random.key(2), [9] * 8, way=4, needed=7, repetitions=5)
    found = probe._accuracies(jnp.asarray(embeddings), jnp.asarray(rows), shot, 3, _few_shot.prototype)
    for accuracy, repetition in zip(found, rows, strict=True):
        means = embeddings[repetition[:, 3 : 3 + shot]].mean(axis=1)
        right = [
            np.linalg.norm(means - embeddings[photo], axis=1).argmin() == label
            for label, photos_of_it in enumerate(repetition[:, :3])
            for photo in photos_of_it
        ]
        assert accuracy == pytest.approx(np.mean(right))


def test_smaller_cells_do_not_depend_on_the_larger_ones():
    embeddings, labels = photos(np.random.default_rng(1))
    whole = probe.few_shot_grid(jax.random.key(3), embeddings, labels, **GRID)
    part = probe.few_shot_grid(jax.random.key(3), embeddings, labels, **GRID | {"ways": (3,)})
    np.testing.assert_array_equal(whole.accuracies[:, :1], part.accuracies)


def test_well_separated_labels_are_all_right_and_noise_is_at_chance():
    rng = np.random.default_rng(2)
    for spread, chance in ((0.01, 1.0), (1e4, 1 / 5)):
        embeddings, labels = photos(rng, spread=spread, labels=20, count=10)
        options = GRID | {
            "ways": (5,),
            "repetitions": 50,
            "classifiers": _few_shot.CLASSIFIERS,
            "neighbours": 3,
        }
        grid = probe.few_shot_grid(jax.random.key(0), embeddings, labels, **options)
        assert np.abs(grid.mean - chance).max() < 0.08, spread


def test_the_interval_is_that_of_the_mean_over_repetitions():
    embeddings, labels = photos(np.random.default_rng(3), spread=3.0)
    grid = probe.few_shot_grid(jax.random.key(0), embeddings, labels, **GRID)
    row = next(
        row for row in grid.rows() if row["classifier"] == "prototype" and (row["way"], row["shot"]) == (5, 4)
    )
    values = grid.accuracies[1, 1, 1]
    assert row["accuracy"] == pytest.approx(values.mean()) == grid.metrics()["prototype/5way_4shot"]
    assert row["ci95"] == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(6))
    assert len(grid.rows()) == 2 * 2 * 2


def test_labels_with_too_few_photos_are_left_out_and_counted():
    embeddings, labels = photos(np.random.default_rng(4))
    keep = ~((labels == 7) & (np.arange(len(labels)) % 9 > 5))
    grid = probe.few_shot_grid(jax.random.key(0), embeddings[keep], labels[keep], **GRID)
    assert (grid.labels, grid.labels_left_out) == (7, 1)


def test_the_cosine_ignores_length_and_names_are_labels():
    embeddings, labels = photos(np.random.default_rng(5), spread=2.0)
    longer = embeddings * np.random.default_rng(6).uniform(0.1, 9, (len(labels), 1)).astype(np.float32)
    options = GRID | {"distance": "cosine", "classifiers": ("1-nn",)}
    one = probe.few_shot_grid(jax.random.key(0), embeddings, labels, **options)
    other = probe.few_shot_grid(jax.random.key(0), longer, np.char.add("bag_", labels.astype(str)), **options)
    np.testing.assert_array_equal(one.accuracies, other.accuracies)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": (9,)}, "8 labels have 7 photos .4 shots . 3 queries.; expected 9"),
        ({"queries": 6}, "0 labels have 10 photos"),
        ({"shots": (0,)}, r"shots are \[0\]"),
        ({"ways": ()}, r"ways are \[\]"),
        ({"distance": "manhattan"}, "distance is 'manhattan'"),
        ({"classifiers": ("svm",)}, "classifiers are .'svm',.; expected some of 1-nn"),
        ({"classifiers": ("k-nn",)}, "neighbours is None"),
    ],
)
def test_wrong_options_are_named(options, message):
    embeddings, labels = photos(np.random.default_rng(7))
    with pytest.raises(ValueError, match=message):
        probe.few_shot_grid(jax.random.key(0), embeddings, labels, **GRID | options)


def test_wrong_arrays_are_named():
    embeddings, labels = photos(np.random.default_rng(8))
    with pytest.raises(ValueError, match=r"expected \[n, d\] and \[n\]"):
        probe.few_shot_grid(jax.random.key(0), embeddings, labels[:-1], **GRID)
    with pytest.raises(ValueError, match="NaN"):
        probe.few_shot_grid(jax.random.key(0), jnp.full_like(embeddings, jnp.nan), labels, **GRID)
