"""Measures of classification, against scikit-learn, loops in NumPy, and all orders of tied ones."""

import functools
import itertools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from fsl_jax.evaluation.classification import (
    MOST_ROWS,
    attribute_counts,
    attribute_ranking,
    level_counts,
    mean_over_attributes,
    spread_ranking,
    tree_counts,
)
from fsl_jax.mesh import AXIS, data_mesh, over_rows

KS = (1, 3, 20)
PADDED = 64
"""Rows of every random case, so that few programs are compiled; those beyond the case's own are unknown."""
WIDTHS = (1, 3, 17)
PARENTS = ((), (0, 0, 1, 2), (0, 0, 1, 2, 3, 3, -1))
"""Three top names, the last name of the finest level without a known parent."""

added = functools.partial(jax.tree.map, jnp.add)


def padded(values, fill):
    """Appends rows of one value."""
    filling = [(0, PADDED - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, filling, constant_values=fill)


def rows_of(rng):
    return int(rng.choice([1, 2, 5, 30, PADDED]))


def close(given, expected):
    """Compares two dictionaries of figures, NaN equal to NaN."""
    assert set(given) >= set(expected)
    for name, value in expected.items():
        assert given[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


def tied_orders(scores):
    """Yields every order, best first, that equal scores allow."""
    groups = [np.flatnonzero(scores == value) for value in np.unique(scores)[::-1]]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [row for part in parts for row in part]


# One level.


def level_case(seed):
    """Logits with ties or without, codes with unknown ones and absent names."""
    rng = np.random.default_rng(seed)
    rows, names = rows_of(rng), WIDTHS[seed % 3]
    logits = rng.integers(0, 3, (rows, names)) if seed % 2 else rng.standard_normal((rows, names))
    codes = rng.integers(-1, max(names - seed % 4, 1), rows)
    return logits.astype(np.float32), codes


def level_reference(logits, codes):
    """The figures by scikit-learn, of the known rows alone."""
    true, predicted = codes[codes >= 0], logits[codes >= 0].argmax(axis=1)
    if not len(true):
        return dict.fromkeys(("accuracy", "precision", "recall", "f1", "macro_f1", "top1"), math.nan) | {
            "count": 0
        }
    weighted = precision_recall_fscore_support(true, predicted, average="weighted", zero_division=0)[:3]
    macro = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)[2]
    return {
        **dict(zip(("precision", "recall", "f1"), weighted, strict=True)),
        "accuracy": accuracy_score(true, predicted),
        "macro_f1": macro,
        "count": len(true),
    }


@pytest.mark.parametrize("part", range(4))
def test_100_random_levels_agree_with_scikit_learn(part):
    for seed in range(25 * part, 25 * (part + 1)):
        logits, codes = level_case(seed)
        counts = level_counts(padded(logits, np.nan), padded(codes, -1), ks=KS)
        close(counts.figures(), level_reference(logits, codes))
        known, names = codes >= 0, np.arange(logits.shape[1])
        if known.any():
            true, predicted = codes[known], logits[known].argmax(axis=1)
            expected = confusion_matrix(true, predicted, labels=names) if len(names) > 1 else [[known.sum()]]
            np.testing.assert_array_equal(counts.confusion, expected)
            each = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
            for given, expected in zip(counts.per_name(), each, strict=True):
                np.testing.assert_allclose(given, expected, rtol=1e-12)


def test_top_k_without_ties_agrees_with_scikit_learn():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        logits, codes = rng.standard_normal((PADDED, 17), np.float32), rng.integers(-1, 17, PADDED)
        figures = level_counts(logits, codes, ks=KS).figures()
        known = codes >= 0
        expected = {
            f"top{k}": top_k_accuracy_score(codes[known], logits[known], k=k, labels=np.arange(17))
            for k in (1, 3)
        }
        close(figures, expected | {"top20": 1.0})


def test_top_k_with_ties_is_the_mean_over_all_orders():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits, codes = rng.integers(0, 2, (PADDED, 5)).astype(np.float32), rng.integers(-1, 5, PADDED)
        logits[4:], codes[4:] = 0, -1
        figures = level_counts(logits, codes, ks=(1, 2, 3)).figures()
        for k in (1, 2, 3):
            hits = [
                np.mean([code in order[:k] for order in tied_orders(row)])
                for row, code in zip(logits, codes, strict=True)
                if code >= 0
            ]
            assert figures[f"top{k}"] == pytest.approx(np.mean(hits) if hits else math.nan, nan_ok=True)


def test_equal_logits_score_k_of_c():
    figures = level_counts(np.zeros((10, 4)), np.arange(10) % 4, ks=(1, 3, 4)).figures()
    close(figures, {"top1": 1 / 4, "top3": 3 / 4, "top4": 1.0, "accuracy": 0.3})


def test_a_level_of_one_name_is_always_right():
    close(
        level_counts(np.zeros((3, 1)), np.zeros(3, int), ks=(1, 5)).figures(),
        dict.fromkeys(("accuracy", "precision", "recall", "f1", "macro_f1", "top1", "top5"), 1.0),
    )


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_known_gives_nan_and_a_count_of_zero(rows):
    figures = level_counts(np.zeros((rows, 4)), np.full(rows, -1), ks=(1,)).figures()
    assert figures.pop("count") == 0
    assert len(figures) == 6
    assert all(math.isnan(value) for value in figures.values())


def test_a_nan_among_the_logits_is_not_a_hit():
    logits = np.array([[1.0, np.nan], [0.0, 1.0]])
    assert math.isnan(level_counts(logits, np.array([0, 1]), ks=(1,)).figures()["top1"])
    assert math.isnan(level_counts(logits, np.array([1, 1]), ks=(1,)).figures()["top1"])
    assert level_counts(logits, np.array([-1, 1]), ks=(1,)).figures()["top1"] == 1.0


def test_many_rows_are_counted_exactly():
    codes = np.random.default_rng(0).integers(0, 150, 10_000)
    logits = np.random.default_rng(1).standard_normal((10_000, 150), np.float32)
    counts = level_counts(logits, codes, ks=())
    np.testing.assert_array_equal(counts.confusion, confusion_matrix(codes, logits.argmax(axis=1)))


# The tree.


def climbed(name):
    """The known ancestors of a finest name, itself included, as (level, code)."""
    found, level = [], len(PARENTS) - 1
    while name >= 0:
        found.append((level, name))
        name = PARENTS[level][name] if level else -1
        level -= 1
    return found


def tree_reference(predicted, codes, counted):
    """The figures by walking up the tree, row by row, and the breadth of each tree path by hand."""
    levels, consistent, shared, distances, heights = len(PARENTS), [], [], [], []
    for row, true in zip(predicted[counted], codes[counted], strict=True):
        consistent.append(all(PARENTS[k][row[k]] == row[k - 1] for k in range(1, levels)))
        if true[-1] < 0:
            continue
        paths = climbed(row[-1]), climbed(true[-1])
        common = max((level for level, _ in set(paths[0]) & set(paths[1])), default=-1)
        height = levels - 1 - common
        shared.append((common + 1) / levels)
        distances.append(2 * height)
        heights += [height] if row[-1] != true[-1] else []
    lists = {
        "consistency": consistent,
        "hierarchical_precision": shared,
        "tree_distance": distances,
        "mistake_severity": heights,
    }
    return {name: np.mean(values) if values else math.nan for name, values in lists.items()}


def tree_case(seed):
    """Predictions that often form a path, codes with unknown ones, and rows that do not count."""
    rng = np.random.default_rng(seed)
    rows = rows_of(rng)
    finest = rng.integers(0, len(PARENTS[2]) - (seed % 2), rows)
    middle = np.take([*PARENTS[2], -1], finest)
    path = np.stack([np.take([*PARENTS[1], -1], middle), middle, finest], axis=1)
    loose = np.stack([rng.integers(0, size, rows) for size in (3, 4, 7)], axis=1)
    predicted = np.where((path < 0).any(axis=1, keepdims=True) | (rng.random((rows, 3)) < 0.2), loose, path)
    codes = np.stack([rng.integers(-1, size, rows) for size in (3, 4, 7)], axis=1)
    return padded(predicted, 0), padded(codes, -1), padded(rng.random(rows) < 0.8, False)


def test_100_random_trees_agree_with_walking_up():
    for seed in range(100):
        predicted, codes, counted = tree_case(seed)
        figures = tree_counts(predicted, codes, PARENTS, counted=counted).figures()
        close(figures, tree_reference(predicted, codes, counted))


def tree_of(predicted, true, parents=((), (0, 0, 1), (0, 0, 1, 2)), **options):
    return tree_counts(np.array([predicted]), np.array([true]), parents, **options).figures()


@pytest.mark.parametrize(
    ("predicted", "true", "consistency", "shared", "distance", "severity"),
    [
        ((0, 0, 0), (0, 0, 0), 1, 1, 0, math.nan),  # right
        ((0, 0, 1), (0, 0, 0), 1, 2 / 3, 2, 1),  # a sibling
        ((0, 1, 2), (0, 0, 0), 1, 1 / 3, 4, 2),  # a cousin
        ((1, 2, 3), (0, 0, 0), 1, 0, 6, 3),  # through the root
        ((1, 0, 0), (0, 0, 0), 0, 1, 0, math.nan),  # right, but the coarsest prediction is not above it
        ((0, 2, 3), (0, 0, 0), 0, 0, 6, 3),
        ((0, 0, 0), (0, 0, -1), 1, math.nan, math.nan, math.nan),  # no finest truth
    ],
)
def test_trees_by_hand(predicted, true, consistency, shared, distance, severity):
    expected = {"consistency": consistency, "hierarchical_precision": shared}
    close(tree_of(predicted, true), expected | {"tree_distance": distance, "mistake_severity": severity})


def test_names_without_a_known_parent_share_nothing_and_lie_under_nothing():
    orphans = ((), (-1, -1))
    assert tree_of((0, 0), (0, 0), orphans)["hierarchical_precision"] == 1
    assert tree_of((0, 1), (0, 0), orphans)["tree_distance"] == 4
    assert tree_of((0, 0), (0, 0), orphans)["consistency"] == 0
    assert tree_of((-1, 0), (0, 0), orphans)["consistency"] == 0


def test_a_prediction_that_is_missing_is_wrong():
    close(tree_of((-1, -1, -1), (0, 0, 0)), {"consistency": 0, "tree_distance": 6})


def test_any_code_below_zero_is_unknown():
    assert tree_of((1, 2, -2), (0, 0, 0))["consistency"] == 0
    assert math.isnan(tree_of((0, 0, 0), (0, 0, -5))["tree_distance"])
    assert level_counts(np.zeros((1, 3)), np.array([-2]), ks=()).figures()["count"] == 0


def test_one_level_and_no_rows():
    close(
        tree_of((1,), (0,), ((),)),
        {"consistency": 1, "hierarchical_precision": 0, "tree_distance": 2, "mistake_severity": 1},
    )
    nothing = np.zeros((0, 1), int)
    assert all(math.isnan(value) for value in tree_counts(nothing, nothing, ((),)).figures().values())
    assert all(math.isnan(value) for value in tree_of((1,), (0,), ((),), counted=np.array([False])).values())


# Attributes.


def attribute_case(seed):
    """Probabilities with ties or without; truth with unknown ones, absent attributes and rows without any."""
    rng = np.random.default_rng(seed)
    rows, attributes = rows_of(rng), (1, 4, 7)[seed % 3]
    levels = rng.integers(0, 5, (rows, attributes)) / 4
    values = levels if seed % 2 else rng.random((rows, attributes))
    odds = rng.random(attributes) * (seed % 5 > 0)
    truth = np.where(rng.random((rows, attributes)) < odds[None], 1, 0)
    truth[rng.random((rows, attributes)) < 0.2 * (seed % 4 > 0)] = -1
    return values.astype(np.float32), truth


def averages(truth, predicted):
    """Weighted and macro figures by scikit-learn, from 0 and 1 alone."""
    if not (truth == 1).any():
        return (math.nan,) * 3, math.nan
    if truth.shape[1] == 1:  # scikit-learn takes one column for two names
        columns = precision_recall_fscore_support(truth[:, 0], predicted[:, 0], labels=[1], zero_division=0)
        return tuple(float(each[0]) for each in columns[:3]), float(columns[2][0])
    weighted = precision_recall_fscore_support(truth, predicted, average="weighted", zero_division=0)[:3]
    return weighted, precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)[2]


@pytest.mark.parametrize("part", range(4))
def test_100_random_attributes_agree_with_scikit_learn(part):
    for seed in range(25 * part, 25 * (part + 1)):
        values, truth = attribute_case(seed)
        counts = attribute_counts(padded(values, np.nan), padded(truth, -1), threshold=0.5)
        figures = counts.figures()
        # An unknown one that is neither had nor predicted adds to no count of scikit-learn's three.
        known, seen = truth >= 0, (truth >= 0).any(axis=0)
        yes, predicted = (truth == 1).astype(int), (known & (values > 0.5)).astype(int)
        weighted, _ = averages(yes, predicted)
        close(figures, dict(zip(("precision", "recall", "f1"), weighted, strict=True)))
        if yes.any():
            close(figures, {"macro_f1": averages(yes[:, seen], predicted[:, seen])[1]})
        if seed % 2 == 0:  # without ties
            best = np.argsort(np.argsort(np.where(known, -values, np.inf), axis=1), axis=1)
            chosen = (best < yes.sum(axis=1, keepdims=True)).astype(int)
            names = ("precision_at_k", "recall_at_k", "f1_at_k")
            close(figures, dict(zip(names, averages(yes, chosen)[0], strict=True)))


def test_the_k_best_with_ties_are_the_mean_over_all_orders():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = rng.integers(0, 2, (PADDED, 5)).astype(np.float32)
        truth = rng.integers(-1, 2, (PADDED, 5))
        truth[3:] = -1
        counts = attribute_counts(values, truth, threshold=0.5)
        chosen = np.zeros((PADDED, 5))
        for row in range(3):
            known = np.flatnonzero(truth[row] >= 0)
            orders = list(tied_orders(values[row][known]))
            for order in orders:
                chosen[row, known[order[: (truth[row] == 1).sum()]]] += 1 / len(orders)
        np.testing.assert_allclose(counts.chosen, chosen.sum(axis=0), atol=1e-6)
        np.testing.assert_allclose(counts.tp_at_k, (chosen * (truth == 1)).sum(axis=0), atol=1e-6)


def test_at_the_threshold_itself_nothing_is_predicted():
    counts = attribute_counts(np.array([[0.75, 0.76]]), np.array([[1, 1]]), threshold=0.75)
    assert (counts.tp.tolist(), counts.fn.tolist()) == ([0, 1], [1, 0])


def test_pooled_over_rows_as_many_are_chosen_as_there_are():
    values, truth = attribute_case(5)
    counts = attribute_counts(values, truth, threshold=0.5)
    assert float(counts.chosen.sum()) == pytest.approx((truth == 1).sum(), rel=1e-6)


def test_a_nan_is_never_predicted_nor_chosen():
    counts = attribute_counts(np.array([[np.nan, 0.2]]), np.array([[1, 0]]), threshold=0.5)
    assert (counts.tp.tolist(), counts.chosen.tolist()) == ([0, 0], [0, 0])


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("value", [-1, 0])
def test_without_any_attribute_the_weighted_figures_are_nan(rows, value):
    figures = attribute_counts(np.ones((rows, 2)), np.full((rows, 2), value), threshold=0.5).figures()
    macro = figures.pop("macro_f1")
    assert len(figures) == 6
    assert all(math.isnan(each) for each in figures.values())
    assert macro == 0 if rows and value == 0 else math.isnan(macro)


def ranking_reference(scores, truth):
    """Area and average precision of each attribute by scikit-learn, of its known rows alone."""
    for column, stated in zip(scores.T, truth.T, strict=True):
        yes, known = stated[stated >= 0], column[stated >= 0]
        both = 0 < yes.sum() < len(yes)
        yield (
            roc_auc_score(yes, known) if both else math.nan,
            average_precision_score(yes, known) if yes.any() else math.nan,
        )


def test_100_random_rankings_agree_with_scikit_learn():
    for seed in range(100):
        scores, truth = attribute_case(seed)
        auc, ap = attribute_ranking(padded(scores, np.nan), padded(truth, -1))
        expected = np.array(list(ranking_reference(scores, truth))).reshape(-1, 2)
        np.testing.assert_allclose(auc, expected[:, 0], atol=1e-6)
        np.testing.assert_allclose(ap, expected[:, 1], atol=1e-6)


def test_50000_rows_lose_no_count():
    rng = np.random.default_rng(0)
    truth = np.stack([rng.random(50_000) < share for share in (0.5, 0.9, 1e-4)], axis=1).astype(int)
    scores = (rng.standard_normal((50_000, 3)) + 0.7 * truth).astype(np.float32)
    scores[:, 1] = np.round(scores[:, 1], 2)
    expected = np.array(list(ranking_reference(scores, truth)))
    np.testing.assert_allclose(np.stack(attribute_ranking(scores, truth), axis=1), expected, atol=3e-7)
    best = np.stack(attribute_ranking(truth.astype(np.float32), truth))
    np.testing.assert_array_equal(best, np.ones((2, 3)))


def test_equal_scores_give_half_the_area_and_the_base_rate():
    auc, ap = attribute_ranking(np.zeros((8, 1)), np.array([[1, 1, 0, 0, 0, 0, 0, 0]]).T)
    assert (auc.tolist(), ap.tolist()) == ([0.5], [0.25])


def test_the_two_zeros_and_infinities_are_scores():
    scores = np.array([[-0.0, 0.0, np.inf, -np.inf]]).T
    auc, ap = attribute_ranking(scores, np.array([[1, 0, 1, 0]]).T)
    assert auc.tolist() == [pytest.approx(3.5 / 4)]
    assert ap.tolist() == [pytest.approx((1 + 2 / 3) / 2)]


def test_a_ranking_is_nan_where_it_is_not_defined():
    truth = np.array([[1, 0, -1, 1], [1, 0, -1, 0]])
    scores = np.array([[1.0, 1.0, 1.0, np.nan], [0.0, 0.0, 0.0, 0.0]])
    auc, ap = (np.asarray(each) for each in attribute_ranking(scores, truth))
    np.testing.assert_array_equal(auc, [np.nan] * 4)
    np.testing.assert_array_equal(ap, [1.0] + [np.nan] * 3)
    for shape in ((0, 3), (3, 0)):
        auc, ap = attribute_ranking(np.zeros(shape), np.zeros(shape, int))
        assert auc.shape == ap.shape == shape[1:]
        assert np.isnan(auc).all()


def test_the_mean_over_attributes_leaves_out_the_undefined():
    assert mean_over_attributes(np.array([0.5, np.nan, 1.0])) == (0.75, 2)
    mean, count = mean_over_attributes(np.array([np.nan]))
    assert math.isnan(mean)
    assert count == 0


# All of them.


def everything():
    """Each function that counts, with arguments whose leading axis is the rows."""
    levels = (padded(each, fill) for each, fill in zip(level_case(14), (0, -1), strict=True))
    attributes = (padded(each, fill) for each, fill in zip(attribute_case(11), (0, -1), strict=True))
    return {
        "level": (lambda logits, codes: level_counts(logits, codes, ks=KS), *levels),
        "tree": (
            lambda predicted, codes, counted: tree_counts(predicted, codes, PARENTS, counted=counted),
            *tree_case(4),
        ),
        "attributes": (lambda values, truth: attribute_counts(values, truth, threshold=0.5), *attributes),
    }


@pytest.mark.parametrize("name", ["level", "tree", "attributes"])
def test_blocks_and_devices_add_up_to_the_whole(name):
    count, *arrays = everything()[name]
    whole = count(*arrays)
    blocks = [count(*(each[i : i + 16] for each in arrays)) for i in range(0, PADDED, 16)]
    devices = over_rows(
        data_mesh(8),
        lambda *rows: lax.psum(count(*rows), AXIS),
        spread=(True,) * len(arrays),
        results=P(),
    )
    for parts in (functools.reduce(added, blocks), jax.jit(devices)(*arrays)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), whole, parts)
        close(parts.figures(), whole.figures())


def test_a_ranking_on_8_devices_is_that_on_one():
    rng = np.random.default_rng(3)
    scores, truth = rng.integers(0, 9, (PADDED, 11)).astype(np.float32), rng.integers(-1, 2, (PADDED, 11))
    one = attribute_ranking(scores, truth)
    for devices in (1, 8):
        spread = spread_ranking(scores, truth, data_mesh(devices))
        for given, expected in zip(spread, one, strict=True):
            assert isinstance(given, np.ndarray)
            np.testing.assert_array_equal(given, expected)


def test_a_ranking_is_spread_from_any_device():
    scores = jax.device_put(np.arange(6, dtype=np.float32).reshape(3, 2), jax.devices()[5])
    auc, ap = spread_ranking(scores, np.array([[0, 1], [1, 1], [1, 0]]), data_mesh(8))
    np.testing.assert_allclose(auc, [1, 0])
    np.testing.assert_allclose(ap, [1, (1 / 2 + 2 / 3) / 2])


def test_a_ranking_of_nothing_is_spread_too():
    for shape in ((0, 3), (3, 0)):
        auc, _ = spread_ranking(np.zeros(shape, np.float32), np.zeros(shape, int), data_mesh(8))
        assert auc.shape == shape[1:]


def test_a_second_call_compiles_nothing():
    def run(seed):
        rng = np.random.default_rng(seed)
        logits, truth = rng.random((PADDED, 3), np.float32), rng.integers(-1, 2, (PADDED, 3))
        level_counts(logits, truth[:, 0], ks=KS).figures()
        tree_counts(truth + 1, truth, PARENTS, counted=truth[:, 0] > 0).figures()
        attribute_counts(logits, truth, threshold=0.25 + seed / 8).figures()
        attribute_ranking(logits, truth)
        spread_ranking(logits, truth, data_mesh(8))

    run(0)
    calls = []

    def listen(event, duration, **_):
        calls.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(1)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in calls if "backend_compile" in event]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: level_counts(np.zeros((2, 3)), np.zeros(3, int), ks=(1,)),
            r"expected \(n, c\) and \(n,\)",
        ),
        (lambda: level_counts(np.zeros((2, 3)), np.zeros(2, int), ks=(0,)), r"ks are \(0,\)"),
        (lambda: tree_of((0, 0), (0, 0)), r"expected \(n, 3\) of both"),
        (lambda: tree_of((0,), (0,), ((0,),)), "expected an empty tuple first"),
        (lambda: attribute_counts(np.zeros(2), np.zeros(2, int), threshold=0.5), r"expected \(n, a\)"),
        (lambda: attribute_ranking(np.zeros((2, 3)), np.zeros((2, 2), int)), r"truth \(2, 2\); expected"),
        (
            lambda: attribute_ranking(np.zeros((MOST_ROWS + 1, 1)), np.zeros((MOST_ROWS + 1, 1), int)),
            f"expected at most {MOST_ROWS}",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_example_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = text[text.index("## Classification") :]
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    close(names["level"], {"accuracy": 0.5, "precision": 0.375, "recall": 0.5, "f1": 5 / 12, "count": 4})
    close(names["level"], {"macro_f1": 7 / 18, "top1": 11 / 24, "top2": 11 / 12})
    close(names["tree"], {"consistency": 2 / 3, "hierarchical_precision": 0.5})
    close(names["tree"], {"tree_distance": 2, "mistake_severity": 1.5})
    close(names["attributes"], {"precision": 5 / 6, "recall": 2 / 3, "f1": 2 / 3, "macro_f1": 4 / 9})
    close(names["attributes"], {"precision_at_k": 7 / 9, "recall_at_k": 0.5, "f1_at_k": 26 / 45})
    assert names["auc"].tolist() == [0.25]
    assert names["ap"].tolist() == [pytest.approx(11 / 30)]
    for figures in (names["level"], names["tree"], names["attributes"]):
        assert all(f"{value:.4f}".rstrip("0").rstrip(".") in section for value in figures.values())
