import itertools
import json

import numpy as np
import pytest

from fsl_jax.search import calibration
from fsl_jax.search.calibration import Calibration, fit, logistic, threshold_of


def unit(points):
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def photos(counts, *, spread, dimensions=8, seed=0):
    """Unit vectors around one centre a label, shuffled."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = rng.standard_normal((len(counts), dimensions))
    return unit(centres[labels] + spread * rng.standard_normal((len(labels), dimensions))), np.array(
        [f"label_{i}" for i in labels]
    )


def pairs_of(embeddings, labels):
    """Every pair, one by one."""
    same, different = [], []
    for i, j in itertools.combinations(range(len(labels)), 2):
        (same if labels[i] == labels[j] else different).append(float(embeddings[i] @ embeddings[j]))
    return np.array(same), np.array(different)


def of_scikit_learn(same, different, weights=None):
    from sklearn.linear_model import LogisticRegression

    scores = np.concatenate([same, different])
    spread, middle = scores.std(), scores.mean()
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)  # no penalty
    targets = np.repeat([1, 0], [len(same), len(different)])
    model.fit(((scores - middle) / spread)[:, None], targets, sample_weight=weights)
    slope = model.coef_[0, 0] / spread
    return slope, model.intercept_[0] - slope * middle


def test_slope_and_intercept_are_those_of_scikit_learn():
    pytest.importorskip("sklearn")
    embeddings, labels = photos([4] * 15, spread=1.0)
    ours = fit(embeddings, labels, false_accept_rate=0.01)
    np.testing.assert_allclose(
        (ours.slope, ours.intercept), of_scikit_learn(*pairs_of(embeddings, labels)), rtol=1e-5
    )


def test_weighed_pairs_count_as_often_as_they_weigh():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    same, different = rng.normal(0.6, 0.2, 50), rng.normal(0.1, 0.2, 80)
    ours = logistic(same, different, same_weight=100, different_weight=8000)
    expected = of_scikit_learn(same, different, weights=np.repeat([2.0, 100.0], [50, 80]))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_probabilities_of_all_pairs_sum_up_to_the_same_label_pairs():
    # A property of the maximum of the likelihood.
    embeddings, labels = photos([3, 5, 2, 7, 4], spread=1.2)
    fitted = fit(embeddings, labels, false_accept_rate=0.01)
    same, different = pairs_of(embeddings, labels)
    assert fitted.probability(np.concatenate([same, different])).sum() == pytest.approx(len(same), rel=1e-4)
    assert fitted.pairs == len(same) + len(different)


def test_a_probability_rises_with_the_score_and_never_overflows():
    fitted = Calibration(slope=5000.0, intercept=-100.0, threshold=0.5, false_accept_rate=0.01, pairs=10)
    probability = fitted.probability(np.array([-1.0, 0.0, 0.02, 0.021, 1.0]))
    assert (np.diff(probability) > 0).all()
    assert probability[2] == pytest.approx(0.5)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert fitted.probability(0.02).shape == ()


def test_scores_that_separate_wholly_give_a_finite_slope():
    embeddings = unit(np.array([[1, 0.01], [1, 0.0], [0.0, 1], [0.01, 1]]))
    fitted = fit(embeddings, np.array(["a", "a", "b", "b"]), false_accept_rate=0.01)
    assert 0 < fitted.slope < 1e3
    same, different = fitted.probability(np.array([1.0, 0.02]))
    # Platt's targets: (2 + 1) / (2 + 2) and 1 / (4 + 2), which two kinds of one score each can reach.
    assert (same, different) == (pytest.approx(0.75, abs=0.02), pytest.approx(1 / 6, abs=0.02))


@pytest.mark.parametrize(
    ("same", "different"),
    [([0.1, 0.2, 0.3], [0.15, 0.6, 0.7]), ([0.1, 0.2], [0.8, 0.9]), ([0.5, 0.5], [0.5, 0.5])],
)
def test_scores_that_do_not_separate_are_refused(same, different):
    with pytest.raises(ValueError, match="the scores do not separate"):
        logistic(np.array(same), np.array(different), same_weight=1, different_weight=1)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.29, 0.5, 0.999])
def test_at_most_the_rate_of_different_pairs_reaches_the_threshold(rate):
    scores = np.random.default_rng(0).normal(0, 0.3, 200).astype(np.float32)
    threshold = threshold_of(scores, false_accept_rate=rate)
    accepted = int((scores >= threshold).sum())
    # As many as the rate allows, not fewer: there is no tie.
    assert accepted == int(np.floor(rate * 200))


def test_ties_at_the_threshold_are_all_refused():
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], np.float32)
    threshold = threshold_of(scores, false_accept_rate=0.3)
    assert 0.5 < threshold < 0.5001
    assert (scores >= np.float32(threshold)).sum() == 1


def test_with_few_pairs_none_reaches_the_threshold():
    threshold = threshold_of(np.array([0.3, 0.2], np.float32), false_accept_rate=0.01)
    assert 0.3 < threshold < 0.3001


def test_the_threshold_of_a_fit_is_that_of_all_different_pairs():
    embeddings, labels = photos([4] * 15, spread=1.0)
    fitted = fit(embeddings, labels, false_accept_rate=0.05)
    _, different = pairs_of(embeddings, labels)
    # Products in another order differ in the last digit.
    assert (different >= fitted.threshold + 1e-6).mean() <= 0.05
    assert (different >= fitted.threshold - 1e-6).mean() >= 0.05 - 1 / len(different)


def test_every_pair_is_taken_once_where_there_are_few(monkeypatch):
    embeddings, labels = photos([1, 3, 2, 5, 1], spread=1.0)
    taken = []
    scores = calibration._scores
    monkeypatch.setattr(
        calibration,
        "_scores",
        lambda e, first, second: taken.append((first, second)) or scores(e, first, second),
    )
    fit(embeddings, labels, false_accept_rate=0.01)
    for (first, second), alike in zip(taken, (True, False), strict=True):
        found = sorted(tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True))
        every = itertools.combinations(range(len(labels)), 2)
        assert found == [(i, j) for i, j in every if (labels[i] == labels[j]) == alike]


def test_drawn_pairs_are_of_their_kind_and_all_as_likely(monkeypatch):
    counts = [1, 3, 2, 5, 1]
    embeddings, labels = photos(counts, spread=1.0)
    taken = []
    monkeypatch.setattr(calibration, "MOST_PAIRS", 12)  # 14 pairs of the same label, 52 of different ones
    monkeypatch.setattr(
        calibration, "_scores", lambda e, first, second: taken.append((first, second)) or np.zeros(len(first))
    )
    for seed in range(400):
        with pytest.raises(ValueError, match="do not separate"):
            fit(embeddings, labels, false_accept_rate=0.01, seed=seed)
    for kind, alike in ((0, True), (1, False)):
        first, second = (np.concatenate([pair[side] for pair in taken[kind::2]]) for side in (0, 1))
        assert ((labels[first] == labels[second]) == alike).all()
        assert (first != second).all()
        pairs, times = np.unique(np.sort([first, second], axis=0), axis=1, return_counts=True)
        assert pairs.shape[1] == (14 if alike else 52)
        share = times / times.sum() * pairs.shape[1]
        assert ((share > 0.6) & (share < 1.4)).all()


def test_a_drawn_fit_is_near_the_whole_one_and_the_same_twice(monkeypatch):
    embeddings, labels = photos([4] * 60, spread=1.0)
    whole = fit(embeddings, labels, false_accept_rate=0.05)
    monkeypatch.setattr(calibration, "MOST_PAIRS", 5000)
    drawn, again = (fit(embeddings, labels, false_accept_rate=0.05, seed=3) for _ in range(2))
    assert drawn == again
    assert drawn != fit(embeddings, labels, false_accept_rate=0.05, seed=4)
    assert drawn.pairs == 360 + 5000
    scores = np.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(drawn.probability(scores), whole.probability(scores), atol=0.05)
    assert drawn.threshold == pytest.approx(whole.threshold, abs=0.05)


def test_json_keeps_every_digit():
    embeddings, labels = photos([4] * 15, spread=1.0)
    fitted = fit(embeddings, labels, false_accept_rate=0.01)
    assert Calibration.from_json(json.loads(json.dumps(fitted.as_json()))) == fitted


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slope": 0.0}, "a slope above 0"),
        ({"threshold": float("nan")}, "expected finite numbers"),
        ({"intercept": "x"}, "expected finite numbers"),
        ({"more": 1.0}, "expected slope, intercept, threshold"),
    ],
)
def test_damaged_json_is_refused(changed, said):
    plain = Calibration(10.0, -5.0, 0.7, 0.01, 100).as_json() | changed
    with pytest.raises(ValueError, match=said):
        Calibration.from_json(plain)


@pytest.mark.parametrize(
    ("labels", "rate", "said"),
    [
        (["a", "b", "c"], 0.01, "no label has two photos"),
        (["a", "a", "a"], 0.01, "all photos have one label"),
        (["a", "a"], 0.01, r"embeddings are \(3, 3\), labels \(2,\)"),
        (["a", "a", "b"], 0.0, "false_accept_rate is 0.0; expected above 0"),
        (["a", "a", "b"], 1.0, "false_accept_rate is 1.0; expected above 0"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(labels, rate, said):
    with pytest.raises(ValueError, match=said):
        fit(np.eye(3, dtype=np.float32), np.array(labels), false_accept_rate=rate)


def test_embeddings_that_are_not_finite_are_refused():
    embeddings = np.eye(3, dtype=np.float32)
    embeddings[1, 1] = np.nan
    with pytest.raises(ValueError, match="a score is a NaN"):
        fit(embeddings, np.array(["a", "a", "b"]), false_accept_rate=0.01)
