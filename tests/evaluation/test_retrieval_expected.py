"""The measures under ties, against the plain average over every order of the tied photos."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from fsl_jax.evaluation import _expected

KS = (1, 2, 3, 5, 9)


def ties_of(scores, relevant):
    """Groups of one query, by counting in a loop."""
    positive = [score for score, good in zip(scores, relevant, strict=True) if good]
    counts = [
        (
            sum(other > score for other in scores),
            sum(other >= score for other in scores),
            sum(other > score for other in positive),
            sum(other >= score for other in positive),
        )
        for score in positive
    ]
    tables = [np.array([column]) for column in zip(*counts, strict=True)]
    return _expected.Ties.of(*tables, np.ones_like(tables[0], bool))


def orders(scores, relevant):
    """Yields the relevance by rank for every order of the tied photos; each is equally likely."""
    groups = [
        [good for other, good in zip(scores, relevant, strict=True) if other == score]
        for score in sorted(set(scores), reverse=True)
    ]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield list(itertools.chain(*parts))


def plain(ranking):
    """The measures of one ranking without ties, as their papers write them."""
    total = sum(ranking)
    first = ranking.index(1) + 1
    precision = [sum(ranking[: i + 1]) / (i + 1) for i in range(len(ranking))]
    measures = {
        "first_hit_rank": first,
        "reciprocal_rank": 1 / first,
        "r_precision": sum(ranking[:total]) / total,
        "average_precision_at_r": sum(p * good for p, good in zip(precision[:total], ranking, strict=False))
        / total,
    }
    for k in KS:
        gain = sum(good / np.log2(i + 2) for i, good in enumerate(ranking[:k]))
        ideal = sum(1 / np.log2(i + 2) for i in range(min(k, total)))
        measures |= {f"hit@{k}": float(any(ranking[:k])), f"ndcg@{k}": gain / ideal}
    return measures


def ours(ties):
    first = _expected.first_group(ties)
    hit, reciprocal = _expected.hits(first, KS)
    measures = {
        "first_hit_rank": _expected.first_hit_rank(first)[0],
        "reciprocal_rank": reciprocal[0],
        "r_precision": _expected.r_precision(ties)[0],
        "average_precision_at_r": _expected.average_precision_at_r(ties)[0],
    }
    for i, k in enumerate(KS):
        measures |= {f"hit@{k}": hit[0, i], f"ndcg@{k}": _expected.ndcg(ties, k)[0]}
    return measures


def test_every_measure_is_the_average_over_the_orders_of_tied_photos():
    rng = np.random.default_rng(0)
    for _ in range(60):
        scores = rng.integers(0, rng.integers(1, 5), 7).tolist()
        relevant = rng.permutation([1] * int(rng.integers(1, 6)) + [0] * 7)[:7].tolist()
        if not any(relevant):
            continue
        rankings = [plain(ranking) for ranking in orders(scores, relevant)]
        expected = {name: np.mean([ranking[name] for ranking in rankings]) for name in rankings[0]}
        assert ours(ties_of(scores, relevant)) == pytest.approx(expected, abs=1e-12), (scores, relevant)


def test_average_precision_takes_a_tie_group_as_one_step():
    assert _expected.average_precision(ties_of([-1, -1, -2, -3], [1, 0, 1, 0]))[0] == pytest.approx(
        0.58333, abs=5e-6
    )


def test_equal_scores_give_the_base_rate():
    ties = ties_of([0.5] * 4, [0, 0, 1, 0])
    assert _expected.average_precision(ties)[0] == 0.25
    assert _expected.hits(_expected.first_group(ties), (1, 4))[0].tolist() == [[0.25, 1.0]]


def test_a_group_with_only_positives_is_found_at_its_first_place():
    first = _expected.first_group(ties_of([3, 2, 2, 1], [0, 1, 1, 0]))
    hit, reciprocal = _expected.hits(first, (1, 2))
    assert (hit.tolist(), reciprocal.tolist()) == ([[0.0, 1.0]], [0.5])


def test_large_tie_groups_are_cut_into_tables(monkeypatch):
    first = _expected.First(np.arange(5), np.full(5, 40), np.arange(1, 6))
    whole = _expected.hits(first, KS)
    monkeypatch.setattr(_expected, "TABLE", 80)
    for one, other in zip(whole, _expected.hits(first, KS), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("levels", [2, 11, 101])
def test_interpolated_precision_agrees_with_scikit_learn_with_ties(levels):
    rng = np.random.default_rng(levels)
    for _ in range(30):
        scores = rng.integers(0, 12, 40).astype(float)
        relevant = rng.random(40) < 0.25
        relevant[rng.integers(40)] = True
        precision, recall, _ = precision_recall_curve(relevant, scores)
        # The last point is scikit-learn's own addition, not a cut-off.
        expected = [precision[:-1][recall[:-1] >= i / (levels - 1) - 1e-9].max() for i in range(levels)]
        got = _expected.interpolated_precision(ties_of(scores, relevant), levels)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_interpolated_precision_by_hand():
    # Positives at 1, 3 and 6: precision 1, 2/3, 1/2 at recall 1/3, 2/3, 1.
    ties = ties_of(np.array([6.0, 5, 4, 3, 2, 1]), np.array([1, 0, 1, 0, 0, 1], bool))
    np.testing.assert_allclose(_expected.interpolated_precision(ties, 4)[0], [1, 1, 2 / 3, 1 / 2])
