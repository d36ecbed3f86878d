"""Weights of names and of attributes against hand-made numbers, loops and scikit-learn."""

import doctest
from typing import get_args

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from fsl_jax.losses import balance

RULES = get_args(balance.Rule)
COUNTS = np.array([1, 0, 900, 40, 7, 7, 0, 25])
every_rule = pytest.mark.parametrize("rule", RULES)


def by_loops(counts, rule, beta):
    """Weights of names with items up to a factor, then divided by their mean over all items."""
    raw = []
    for count in counts.tolist():
        if count == 0:
            raw.append(0.0)
        elif rule == "class_balanced":
            # The effective number (1 - beta^n) / (1 - beta) as its series (Cui et al. 2019).
            raw.append(1 / sum(beta**i for i in range(count)))
        else:
            raw.append({"none": 1.0, "inverse": 1 / count, "inverse_root": count**-0.5}[rule])
    mean = sum(n * w for n, w in zip(counts.tolist(), raw, strict=True)) / counts.sum()
    return [w / mean for w in raw]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("none", [1, 1]),
        ("inverse", [5 / 2, 5 / 8]),
        # 1 and 1/2, whose mean over the items is (1 + 4/2) / 5.
        ("inverse_root", [5 / 3, 5 / 6]),
        # Four items are worth 1 + 1/2 + 1/4 + 1/8: 1 and 8/15, whose mean is (1 + 32/15) / 5 = 47/75.
        ("class_balanced", [75 / 47, 40 / 47]),
    ],
)
def test_one_item_and_four_items(rule, expected):
    found = balance.name_weights(np.array([1, 4]), rule=rule, beta=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@every_rule
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_weights_equal_the_loops(rule, beta):
    found = balance.name_weights(COUNTS, rule=rule, beta=beta)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_loops(COUNTS, rule, beta), rtol=1e-6)


@every_rule
def test_the_mean_weight_of_an_item_is_one(rule):
    found = balance.name_weights(COUNTS, rule=rule)
    np.testing.assert_allclose(np.repeat(found, COUNTS).mean(dtype=np.float64), 1.0, rtol=1e-6)


@every_rule
def test_a_name_without_items_has_weight_zero(rule):
    np.testing.assert_array_equal(balance.name_weights(COUNTS, rule=rule) == 0, COUNTS == 0)


@every_rule
def test_without_items_all_weights_are_zero(rule):
    np.testing.assert_array_equal(balance.name_weights(np.zeros(3, int), rule=rule), np.zeros(3))
    assert balance.name_weights(np.zeros(0, int), rule=rule).shape == (0,)


def test_inverse_is_balanced_of_scikit_learn():
    there = np.flatnonzero(COUNTS)
    expected = compute_class_weight("balanced", classes=there, y=np.repeat(np.arange(len(COUNTS)), COUNTS))
    found = balance.name_weights(COUNTS, rule="inverse")
    np.testing.assert_allclose(found[there], expected, rtol=1e-6)


def test_beta_leads_from_none_to_inverse():
    at = {beta: balance.name_weights(COUNTS, rule="class_balanced", beta=beta) for beta in (0.0, 1 - 1e-9)}
    np.testing.assert_array_equal(at[0.0], balance.name_weights(COUNTS, rule="none"))
    np.testing.assert_allclose(at[1 - 1e-9], balance.name_weights(COUNTS, rule="inverse"), rtol=1e-5)


@every_rule
def test_both_sides_of_an_attribute_are_two_names(rule):
    positives, negatives = np.array([1, 50, 3]), np.array([4, 50, 900])
    found = balance.attribute_weights(positives, negatives, rule=rule, beta=0.9)
    for i, counts in enumerate(zip(positives, negatives, strict=True)):
        expected = balance.name_weights(np.array(counts), rule=rule, beta=0.9)
        np.testing.assert_array_equal([side[i] for side in found], expected)
    assert found[0].dtype == found[1].dtype == np.float32


@every_rule
def test_the_mean_weight_of_an_attributes_known_items_is_one(rule):
    positives, negatives = np.array([1, 50, 0, 3]), np.array([4, 70, 9, 0])
    of_positive, of_negative = balance.attribute_weights(positives, negatives, rule=rule)
    total = of_positive.astype(np.float64) * positives + of_negative.astype(np.float64) * negatives
    np.testing.assert_allclose(total / (positives + negatives), 1.0, rtol=1e-6)


@every_rule
def test_an_attributes_side_without_items_has_weight_zero(rule):
    found = balance.attribute_weights(np.array([0, 3, 0]), np.array([5, 0, 0]), rule=rule)
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0]])


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"'invers'; known: none, inverse.*did you mean 'inverse'"):
        balance.name_weights(COUNTS, rule="invers")


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="a count is -3; expected 0 or more"):
        balance.name_weights(np.array([2, -3]), rule="none")
    with pytest.raises(ValueError, match="a count is -1; expected 0 or more"):
        balance.attribute_weights(np.array([2]), np.array([-1]), rule="none")


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta is {beta}; expected 0 to below 1"):
        balance.name_weights(COUNTS, rule="class_balanced", beta=beta)


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="positives has 2 attributes, negatives 1; expected equally many"):
        balance.attribute_weights(np.array([1, 2]), np.array([1]), rule="none")


def test_the_example_holds():
    assert doctest.testmod(balance) == (0, 1)
