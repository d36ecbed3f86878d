import itertools
import json

import numpy as np
import pytest

from fsl_jax.search import calibration
from fsl_jax.search.calibration import Calibration, fit, fit_with, logistic, threshold_of


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


def looked_up(embeddings, labels):
    """Each photo whose label has others, looked up among the other photos: its ten best labels, one by one."""
    right, wrong = [], []
    for i, label in enumerate(labels):
        best = {}
        for j, other in enumerate(labels):
            if i != j:
                best[other] = max(best.get(other, -2.0), float(embeddings[i] @ embeddings[j]))
        if label in best:
            for found in sorted(best, key=best.get)[::-1][:10]:
                (right if found == label else wrong).append(best[found])
    return np.array(right), np.array(wrong)


def of_scikit_learn(same, different):
    from sklearn.linear_model import LogisticRegression

    scores = np.concatenate([same, different])
    spread, middle = scores.std(), scores.mean()
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)  # no penalty
    targets = np.repeat([1, 0], [len(same), len(different)])
    model.fit(((scores - middle) / spread)[:, None], targets)
    slope = model.coef_[0, 0] / spread
    return slope, model.intercept_[0] - slope * middle


@pytest.mark.parametrize("counts", [[4] * 15, [3, 5, 2, 7, 4], [1, 6, 1, 2, 2, 1, 3] * 4])
def test_slope_and_intercept_are_those_of_scikit_learn_on_what_each_photo_finds(counts):
    pytest.importorskip("sklearn")
    embeddings, labels = photos(counts, spread=0.8)
    ours = fit(embeddings, labels, false_accept_rate=0.01)
    expected = of_scikit_learn(*looked_up(embeddings, labels))
    np.testing.assert_allclose((ours.slope, ours.intercept), expected, rtol=1e-4)
    assert ours.looked_up == sum(count for count in counts if count > 1)


@pytest.mark.parametrize(("similarities", "rows"), [(200, 7), (10**6, 16), (1, 1000)])
def test_blocks_of_photos_and_of_the_index_change_nothing(monkeypatch, similarities, rows):
    embeddings, labels = photos([1, 6, 1, 2, 2, 1, 3] * 4, spread=0.8)
    whole = fit(embeddings, labels, false_accept_rate=0.01)
    monkeypatch.setattr(calibration, "SIMILARITIES", similarities)
    monkeypatch.setattr("fsl_jax.search.engines._found.BLOCK", rows)
    blocks = fit(embeddings, labels, false_accept_rate=0.01)
    np.testing.assert_allclose((blocks.slope, blocks.intercept), (whole.slope, whole.intercept), rtol=1e-4)


def test_the_probabilities_of_what_is_found_sum_up_to_what_is_right():
    # A property of the maximum of the likelihood.
    embeddings, labels = photos([3, 5, 2, 7, 4], spread=1.2)
    fitted = fit(embeddings, labels, false_accept_rate=0.01)
    right, wrong = looked_up(embeddings, labels)
    assert fitted.probability(np.concatenate([right, wrong])).sum() == pytest.approx(len(right), rel=1e-4)


def test_of_many_photos_some_are_looked_up_the_same_twice(monkeypatch):
    embeddings, labels = photos([4] * 60, spread=0.8)
    whole = fit(embeddings, labels, false_accept_rate=0.01)
    monkeypatch.setattr(calibration, "LOOKED_UP", 120)
    drawn, again = (fit(embeddings, labels, false_accept_rate=0.01, seed=3) for _ in range(2))
    assert drawn == again
    assert drawn.looked_up == 120
    assert drawn.slope != whole.slope
    scores = np.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(drawn.probability(scores), whole.probability(scores), atol=0.1)


def test_a_model_that_never_finds_the_right_label_is_refused():
    # Twelve labels of two photos that are opposite each other.
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    embeddings = np.concatenate([directions, -directions]).astype(np.float32)
    with pytest.raises(ValueError, match="no photo has its own label among its 10 nearest"):
        fit(embeddings, np.tile(np.arange(12), 2), false_accept_rate=0.01)


def test_a_probability_rises_with_the_score_and_never_overflows():
    fitted = Calibration(
        slope=5000.0, intercept=-100.0, threshold=0.5, false_accept_rate=0.01, pairs=10, looked_up=5
    )
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
    # Platt's targets of four right and four wrong labels, (4 + 1) / (4 + 2) and 1 / (4 + 2), which two kinds of one
    # score each can reach.
    assert (same, different) == (pytest.approx(5 / 6, abs=0.02), pytest.approx(1 / 6, abs=0.02))


@pytest.mark.parametrize(
    ("same", "different"),
    [([0.1, 0.2, 0.3], [0.15, 0.6, 0.7]), ([0.1, 0.2], [0.8, 0.9]), ([0.5, 0.5], [0.5, 0.5])],
)
def test_scores_that_do_not_separate_are_refused(same, different):
    with pytest.raises(ValueError, match="the scores do not separate"):
        logistic(np.array(same), np.array(different))


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
        lambda e, first, f, second: taken.append((first, second)) or scores(e, first, f, second),
    )
    fit(embeddings, labels, false_accept_rate=0.01)
    ((first, second),) = taken
    found = sorted(tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True))
    every = itertools.combinations(range(len(labels)), 2)
    assert found == [(i, j) for i, j in every if labels[i] != labels[j]]


def test_drawn_pairs_are_of_different_labels_and_all_as_likely(monkeypatch):
    embeddings, labels = photos([1, 3, 2, 5, 1], spread=1.0)
    taken = []
    monkeypatch.setattr(calibration, "MOST_PAIRS", 12)  # of 52
    scores = calibration._scores
    monkeypatch.setattr(
        calibration,
        "_scores",
        lambda e, first, f, second: taken.append((first, second)) or scores(e, first, f, second),
    )
    for seed in range(400):
        fit(embeddings, labels, false_accept_rate=0.01, seed=seed)
    first, second = (np.concatenate([pair[side] for pair in taken]) for side in (0, 1))
    assert (labels[first] != labels[second]).all()
    pairs, times = np.unique(np.sort([first, second], axis=0), axis=1, return_counts=True)
    assert pairs.shape[1] == 52
    share = times / times.sum() * 52
    assert ((share > 0.6) & (share < 1.4)).all()


def test_the_threshold_of_drawn_pairs_is_near_that_of_all(monkeypatch):
    embeddings, labels = photos([4] * 60, spread=1.0)
    whole = fit(embeddings, labels, false_accept_rate=0.05)
    monkeypatch.setattr(calibration, "MOST_PAIRS", 5000)
    drawn, again = (fit(embeddings, labels, false_accept_rate=0.05, seed=3) for _ in range(2))
    assert drawn == again
    assert drawn != fit(embeddings, labels, false_accept_rate=0.05, seed=4)
    assert drawn.pairs == 5000
    assert drawn.threshold == pytest.approx(whole.threshold, abs=0.05)


@pytest.mark.parametrize("most", [10**6, 3000])
def test_photos_beside_the_index_are_looked_up_in_all_of_it(monkeypatch, most):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(calibration, "MOST_PAIRS", most)
    every, labels = photos([6] * 15, spread=0.8)
    asked = np.arange(len(labels)) % 3 == 0
    asked &= labels != "label_3"
    kept = ~asked & (labels != "label_7")  # whose queries have nothing right to find
    fitted = fit_with(every[asked], labels[asked], every[kept], labels[kept], false_accept_rate=0.05)
    right, wrong, different = [], [], []
    for query, label in zip(every[asked], labels[asked], strict=True):
        best = {}
        for photo, other in zip(every[kept], labels[kept], strict=True):
            score = float(query @ photo)
            best[other] = max(best.get(other, -2.0), score)
            different += [score] if other != label else []
        for found in sorted(best, key=best.get)[::-1][:10]:
            (right if found == label else wrong).append(best[found])
    expected = of_scikit_learn(np.array(right), np.array(wrong))
    np.testing.assert_allclose((fitted.slope, fitted.intercept), expected, rtol=1e-4)
    expected = threshold_of(np.array(different, np.float32), false_accept_rate=0.05)
    assert fitted.threshold == pytest.approx(expected, abs=1e-6 if most > 3000 else 0.05)
    assert fitted.looked_up == asked.sum()


def test_photos_beside_the_index_without_any_label_of_it_are_refused():
    embeddings, labels = photos([4] * 5, spread=0.8)
    with pytest.raises(ValueError, match="none of the 20 photos has a label of the index"):
        fit_with(embeddings, np.char.add(labels, "x"), embeddings, labels, false_accept_rate=0.05)


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
    plain = Calibration(10.0, -5.0, 0.7, 0.01, 100, 20).as_json() | changed
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
