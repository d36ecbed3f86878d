"""Losses of attributes against float64 loops written from the papers, and one battery over all of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from losses import reference

from fsl_jax.losses import multilabel, reduce

LOG_3 = math.log(3)
"""Log-odds of 3/4."""
TRUTH = np.array([[1, 0, -1, 1], [0, 1, 1, 0], [-1, 0, 0, -1], [1, 1, 0, 0], [0, -1, 1, 1]])
UNKNOWN = TRUTH < 0
LOGITS = np.random.default_rng(0).normal(0, 2.5, TRUTH.shape).astype(np.float32)
WEIGHTS = np.array([0.5, 2.0, 3.0, 0.0]), np.array([1.5, 1.0, 0.25, 4.0])
"""Of positives and of negatives."""
ONES = np.ones(4), np.ones(4)


def probability(logit):
    return 1 / (1 + math.exp(-logit))


def cross_entropy_by_hand(p, yes):
    return -math.log(p if yes else 1 - p)


def focal_by_hand(p, yes, *, gamma, alpha):
    """-alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017)."""
    of_truth = p if yes else 1 - p
    factor = 1.0 if alpha is None else alpha if yes else 1 - alpha
    return -factor * (1 - of_truth) ** gamma * math.log(of_truth)


def asymmetric_by_hand(p, yes, *, gamma_positive, gamma_negative, clip):
    """-(1 - p)^gamma_positive log p, and -p_m^gamma_negative log(1 - p_m) (Ridnik et al. 2021)."""
    if yes:
        return -((1 - p) ** gamma_positive) * math.log(p)
    shifted = max(p - clip, 0.0)
    return -(shifted**gamma_negative) * math.log(1 - shifted)


def table(of_element, logits, truth, weights=None):
    """Values [n, a] of a loss of one element."""
    value = np.zeros(truth.shape)
    for i, j in np.ndindex(*truth.shape):
        if truth[i, j] >= 0:
            yes = truth[i, j] == 1
            factor = 1.0 if weights is None else weights[0][j] if yes else weights[1][j]
            value[i, j] = factor * of_element(probability(float(logits[i, j])), yes)
    return value


@functools.cache
def compiled(loss):
    """Items, and the gradient of their sum, as one program that all tests of a loss share."""

    def both(logits, truth, weights):
        def total(logits):
            found = loss(logits, truth, weights=weights)
            return found.value.sum(), found

        return jax.grad(total, has_aux=True)(logits)[::-1]

    return jax.jit(both)


def case(name, by_hand, **options):
    return pytest.param(
        functools.partial(multilabel.LOSSES[name], **options),
        functools.partial(by_hand, **options),
        id="-".join([name, *(str(number) for number in options.values())]),
    )


CASES = [
    case("binary_cross_entropy", cross_entropy_by_hand),
    *(
        case("focal", focal_by_hand, gamma=gamma, alpha=alpha)
        for gamma, alpha in ((0.0, None), (2.0, 0.25), (0.5, None), (5.0, 0.0))
    ),
    *(
        case("asymmetric", asymmetric_by_hand, gamma_positive=positive, gamma_negative=negative, clip=clip)
        for positive, negative, clip in (
            (0.0, 0.0, 0.0),
            (0.0, 4.0, 0.05),
            (1.0, 0.5, 0.2),
            (2.0, 3.0, 0.0),
            (0, 0, 0.7),
        )
    ),
]
every_loss = pytest.mark.parametrize(("loss", "by_hand"), CASES)


def test_cross_entropy_is_the_log_of_the_probability_of_the_truth():
    found = multilabel.binary_cross_entropy(
        jnp.asarray([[0.0, LOG_3, LOG_3]]), jnp.asarray([[1, 1, 0]])
    ).value
    np.testing.assert_allclose(found, [[math.log(2), math.log(4 / 3), math.log(4)]], rtol=1e-6)


def test_cross_entropy_equals_scikit_learn():
    known = ~UNKNOWN
    expected = sklearn.metrics.log_loss(TRUTH[known], [probability(float(z)) for z in LOGITS[known]])
    found = reduce.mean(multilabel.binary_cross_entropy(jnp.asarray(LOGITS), TRUTH))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_focal_turns_probable_truths_down():
    found = multilabel.focal(jnp.full((1, 2), LOG_3), jnp.asarray([[1, 0]]), gamma=2.0, alpha=0.25).value
    expected = [[0.25 / 16 * math.log(4 / 3), 0.75 * 9 / 16 * math.log(4)]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_asymmetric_has_a_power_of_its_own_for_each_side_and_shifts_negatives():
    found = multilabel.asymmetric(
        jnp.full((1, 2), LOG_3), jnp.asarray([[1, 0]]), gamma_positive=1.0, gamma_negative=2.0, clip=0.25
    ).value
    np.testing.assert_allclose(found, [[math.log(4 / 3) / 4, math.log(2) / 4]], rtol=1e-6)


def test_asymmetric_leaves_negatives_below_the_clip_alone():
    loss = functools.partial(multilabel.asymmetric, gamma_positive=0.0, gamma_negative=0.0, clip=0.25)
    logits = np.array([[math.log(0.2 / 0.8), math.log(0.3 / 0.7)]], np.float32)
    items, gradient = compiled(loss)(logits, np.zeros((1, 2), int), (np.ones(2), np.ones(2)))
    for figure in (items.value, gradient):
        np.testing.assert_array_equal(figure > 0, [[False, True]])
        assert figure[0, 0] == 0


@every_loss
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_values_equal_the_loops(loss, by_hand, weights):
    found = loss(jnp.asarray(LOGITS), TRUTH, weights=weights)
    assert found.value.dtype == jnp.float32
    np.testing.assert_array_equal(found.mask, ~UNKNOWN)
    np.testing.assert_allclose(found.value, table(by_hand, LOGITS, TRUTH, weights), rtol=1e-5, atol=2e-7)


@every_loss
def test_gradients_equal_differences_of_the_loops(loss, by_hand):
    _, found = compiled(loss)(LOGITS, TRUTH, WEIGHTS)
    expected = reference.numerical_gradient(
        lambda logits: table(by_hand, logits, TRUTH, WEIGHTS).sum(), LOGITS.astype(np.float64)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize("filling", [7.0, -1e30, np.nan])
def test_unknown_elements_change_nothing(loss, by_hand, filling):
    items, gradient = compiled(loss)(LOGITS, TRUTH, WEIGHTS)
    filled = np.where(UNKNOWN, np.float32(filling), LOGITS)
    items_filled, gradient_filled = compiled(loss)(filled, TRUTH, WEIGHTS)
    np.testing.assert_array_equal(items_filled.value, items.value)
    np.testing.assert_array_equal(gradient_filled, gradient)
    np.testing.assert_array_equal(items_filled.value[UNKNOWN], 0)
    np.testing.assert_array_equal(gradient_filled[UNKNOWN], 0)


@every_loss
def test_nothing_known_is_zero_with_a_zero_gradient(loss, by_hand):
    items, gradient = compiled(loss)(LOGITS, np.full_like(TRUTH, -1), WEIGHTS)
    assert not items.mask.any()
    np.testing.assert_array_equal(items.value, 0)
    np.testing.assert_array_equal(gradient, 0)


EXTREME = [
    *CASES,
    case("focal", focal_by_hand, gamma=0.1, alpha=None),
    case("asymmetric", asymmetric_by_hand, gamma_positive=0.1, gamma_negative=0.1, clip=1e-9),
]


@pytest.mark.parametrize(("loss", "by_hand"), EXTREME)
def test_huge_logits_have_finite_values_and_gradients(loss, by_hand):
    sizes = np.array([1e4, 100.0, 88.0, 17.0], np.float32)
    truth = np.repeat([[1], [0], [1], [0], [-1]], 4, axis=1)
    items, gradient = compiled(loss)(np.stack([sizes, sizes, -sizes, -sizes, sizes]), truth, ONES)
    assert np.isfinite(items.value).all()
    assert (np.asarray(items.value) >= 0).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "loss",
    [
        multilabel.binary_cross_entropy,
        functools.partial(multilabel.focal, gamma=2.0, alpha=None),
        functools.partial(multilabel.asymmetric, gamma_positive=1.0, gamma_negative=4.0, clip=0.0),
    ],
    ids=["binary_cross_entropy", "focal", "asymmetric"],
)
def test_a_confident_error_costs_its_logit(loss):
    logits, truth = np.array([[1e4, -1e4]], np.float32), np.array([[0, 1]])
    items, gradient = compiled(loss)(logits, truth, (np.ones(2), np.ones(2)))
    np.testing.assert_array_equal(items.value, 1e4)
    np.testing.assert_array_equal(gradient, [[1.0, -1.0]])


def test_a_shifted_negative_costs_at_most_the_log_of_the_clip():
    found = multilabel.asymmetric(
        jnp.full((1, 1), 1e4), jnp.zeros((1, 1), int), gamma_positive=0.0, gamma_negative=0.0, clip=0.05
    )
    np.testing.assert_allclose(found.value, -math.log(0.05), rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(multilabel.focal, gamma=0.0, alpha=None),
        functools.partial(multilabel.asymmetric, gamma_positive=0.0, gamma_negative=0.0, clip=0.0),
    ],
    ids=["focal", "asymmetric"],
)
def test_without_powers_and_clip_it_is_cross_entropy(loss):
    items, gradient = compiled(loss)(LOGITS, TRUTH, WEIGHTS)
    plain, plain_gradient = compiled(multilabel.binary_cross_entropy)(LOGITS, TRUTH, WEIGHTS)
    np.testing.assert_allclose(items.value, plain.value, rtol=1e-6)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-6, atol=1e-7)


@every_loss
def test_bfloat16_is_computed_in_float32(loss, by_hand):
    narrow = jnp.asarray(LOGITS, jnp.bfloat16)
    np.testing.assert_array_equal(loss(narrow, TRUTH).value, loss(narrow.astype(jnp.float32), TRUTH).value)
    assert jax.grad(lambda z: loss(z, TRUTH).value.sum())(narrow).dtype == jnp.bfloat16


@every_loss
def test_jit_equals_no_jit(loss, by_hand):
    items, _ = compiled(loss)(LOGITS, TRUTH, WEIGHTS)
    plain = loss(jnp.asarray(LOGITS), TRUTH, weights=WEIGHTS)
    np.testing.assert_allclose(items.value, plain.value, rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(items.mask, plain.mask)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("focal", {"gamma": -1.0, "alpha": None}, "gamma is -1.0; expected at least 0"),
        ("focal", {"gamma": 2.0, "alpha": 25.0}, "alpha is 25.0; expected 0 to 1, or None"),
        (
            "asymmetric",
            {"gamma_positive": -0.5, "gamma_negative": 4.0, "clip": 0.05},
            "gamma_positive is -0.5; expected at least 0",
        ),
        (
            "asymmetric",
            {"gamma_positive": 0.0, "gamma_negative": -4.0, "clip": 0.05},
            "gamma_negative is -4.0; expected at least 0",
        ),
        (
            "asymmetric",
            {"gamma_positive": 0.0, "gamma_negative": 4.0, "clip": 1.0},
            "clip is 1.0; expected 0 to below 1",
        ),
    ],
)
def test_a_number_out_of_range_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        multilabel.LOSSES[name](jnp.asarray(LOGITS), TRUTH, **options)
