"""Minings against loops, and the random ones by how often they draw what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from losses import reference

from fsl_jax.mining import masks, triplets

BATCHES = 100
SHAPES = [(8, 8), (5, 9)]
WEIGHTED = {"dimensions": 4, "cutoff": 0.5, "furthest": 1.4}
DRAWS = 20_000
RAREST = 1e-6
"""Probability with which right frequencies would be called wrong, were the keys not fixed."""


def batch(rng, shape, number):
    """(distances of unit vectors, positive, negative): mixed labels, now and then only one or no positives."""
    anchors, references = shape
    label, other_label = rng.integers(0, 4, anchors), rng.integers(0, 4, references)
    if number % 10 == 8:
        label, other_label = np.zeros(anchors, int), np.zeros(references, int)
    if number % 10 == 9:
        label, other_label = np.arange(anchors), np.arange(references) + (anchors != references) * 100
    row, other_row = np.arange(anchors), np.arange(references) + (anchors != references) * 100
    left = reference.unit(rng.standard_normal((anchors, 4)))
    right = left if anchors == references else reference.unit(rng.standard_normal((references, 4)))
    if anchors == references:
        other_label = label
    d = reference.distances("euclidean", left, right).astype(np.float32)
    return d, *reference.pair_masks(label, other_label, row, other_row)


@functools.cache
def batches(shape):
    rng = np.random.default_rng(11)
    return [batch(rng, shape, number) for number in range(BATCHES)]


def chosen(found):
    """{(anchor, positive): negative} of what is masked in; each once."""
    found = triplets.Triplets(*map(np.asarray, found))
    kept = found.mask.nonzero()[0]
    as_dictionary = {
        (int(a), int(p)): int(n)
        for a, p, n in zip(found.anchor[kept], found.positive[kept], found.negative[kept], strict=True)
    }
    assert len(as_dictionary) == len(kept)
    return as_dictionary


def of_one(mining):
    """A random mining without its key, and the weighted one with its numbers."""
    return {
        "batch_hard": triplets.batch_hard,
        "semi_hard": triplets.semi_hard,
        "batch_sample": functools.partial(triplets.batch_sample, jax.random.key(3)),
        "distance_weighted": functools.partial(triplets.distance_weighted, jax.random.key(3), **WEIGHTED),
    }[mining]


MININGS = ["batch_hard", "semi_hard", "batch_sample", "distance_weighted"]
AN_ANCHOR = ("batch_hard", "batch_sample")


@functools.cache
def compiled(mining):
    return jax.jit(of_one(mining))


# What is chosen


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_hard_takes_the_furthest_positive_and_the_nearest_negative(shape):
    for d, *pairs in batches(shape):
        expected = {(a, p): n for a, (p, n) in reference.batch_hard(d, *pairs).items()}
        assert chosen(compiled("batch_hard")(d, *pairs)) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_semi_hard_takes_the_nearest_negative_beyond_each_positive(shape):
    for d, *pairs in batches(shape):
        assert chosen(compiled("semi_hard")(d, *pairs)) == reference.semi_hard(d, *pairs)


def test_a_negative_as_far_as_the_positive_is_not_semi_hard():
    d = jnp.asarray([[0.0, 1.0, 1.0, 0.5]])
    positive, negative = jnp.asarray([[False, True, False, False]]), jnp.asarray([[False, False, True, True]])
    assert not triplets.semi_hard(d, positive, negative).mask.any()
    beyond = triplets.semi_hard(d.at[0, 2].set(1.0001), positive, negative)
    assert chosen(beyond) == {(0, 1): 2}


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_weighted_equals_the_loops(shape):
    ours = jax.jit(triplets.batch_weighted)
    for d, *pairs in batches(shape):
        # Times 5: weights that are far from equal.
        got, (near, far, mask) = ours(5 * d, *pairs), reference.batch_weighted(5.0 * d, *pairs)
        np.testing.assert_array_equal(got.mask, mask)
        np.testing.assert_allclose(got.positive_distance[mask], near[mask], rtol=1e-5)
        np.testing.assert_allclose(got.negative_distance[mask], far[mask], rtol=1e-5)


def test_batch_weighted_is_batch_hard_where_one_is_far_ahead():
    d = jnp.asarray([[0.0, 100.0, 300.0, 400.0, 150.0]])
    positive, negative = (
        jnp.asarray([[False, True, True, False, False]]),
        jnp.asarray([[False] * 3 + [True] * 2]),
    )
    got = triplets.batch_weighted(d, positive, negative)
    np.testing.assert_allclose([got.positive_distance[0], got.negative_distance[0]], [300.0, 150.0])


def test_given_triplets_are_three_rows_each():
    found = triplets.given(9)
    np.testing.assert_array_equal(np.stack(found[:3]), [[0, 3, 6], [1, 4, 7], [2, 5, 8]])
    assert found.mask.all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mining", MININGS)
def test_every_chosen_triplet_has_a_positive_and_a_negative(mining, shape):
    for d, positive, negative in batches(shape):
        found = triplets.Triplets(*map(np.asarray, compiled(mining)(d, positive, negative)))
        a, p, n = (part[found.mask] for part in found[:3])
        assert positive[a, p].all()
        assert negative[a, n].all()
        for part, size in zip(found[:3], (shape[0], shape[1], shape[1]), strict=True):
            assert ((part >= 0) & (part < size)).all()  # masked ones too: they index the distances


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mining", ["batch_sample", "distance_weighted"])
def test_a_triplet_is_drawn_wherever_there_is_one(mining, shape):
    for d, positive, negative in batches(shape):
        mask = np.asarray(compiled(mining)(d, positive, negative).mask)
        there = positive & negative.any(1)[:, None]
        np.testing.assert_array_equal(mask, there.any(1) if mining in AN_ANCHOR else there.reshape(-1))


@pytest.mark.parametrize("mining", ["semi_hard", "distance_weighted"])
def test_pairs_are_in_the_order_of_rows(mining):
    found = compiled(mining)(*batches((5, 9))[0])
    np.testing.assert_array_equal(found.anchor, np.repeat(np.arange(5), 9))
    np.testing.assert_array_equal(found.positive, np.tile(np.arange(9), 5))


# How often


def frequencies(draw, keys):
    """Draws with many keys: Triplets with a leading axis of draws."""
    return triplets.Triplets(*map(np.asarray, jax.jit(jax.vmap(draw))(jax.random.split(keys, DRAWS))))


def agree(draws, probabilities):
    """Chi-square of drawn indices against {index: probability}; what cannot be is never drawn."""
    counts = np.bincount(draws, minlength=max(probabilities) + 1)
    possible = [i for i, p in probabilities.items() if p * len(draws) >= 5]
    rare = [i for i in range(len(counts)) if i not in possible]
    assert counts[[i for i in rare if not probabilities.get(i)]].sum() == 0
    expected = np.array([probabilities[i] for i in possible]) * len(draws)
    observed = counts[possible]
    left = len(draws) - expected.sum()
    if left > 5:
        expected, observed = np.append(expected, left), np.append(observed, counts[rare].sum())
    if len(expected) < 2:
        return
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < scipy.stats.chi2.ppf(1 - RAREST, len(expected) - 1), (observed, expected)


@functools.cache
def one_batch():
    """Three labels of 3, 3 and 2 photos, and one singleton; distances that make a difference."""
    rng = np.random.default_rng(4)
    label = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    d = reference.distances("euclidean", *[reference.unit(rng.standard_normal((9, 4)))] * 2).astype(
        np.float32
    )
    return d, *reference.pair_masks(label, label, np.arange(9), np.arange(9))


def test_batch_sample_draws_with_the_softmax_of_the_distances():
    d, *pairs = one_batch()
    d = 2 * d
    found = frequencies(lambda key: triplets.batch_sample(key, d, *pairs), jax.random.key(0))
    expected = reference.batch_sample(d, *pairs)
    np.testing.assert_array_equal(found.mask, np.broadcast_to([a in expected for a in range(9)], (DRAWS, 9)))
    for a, (of_positives, of_negatives) in expected.items():
        agree(found.positive[:, a], of_positives)
        agree(found.negative[:, a], of_negatives)
        # Both at once: the positive says nothing of the negative.
        both = {p * 9 + n: x * y for p, x in of_positives.items() for n, y in of_negatives.items()}
        agree(found.positive[:, a] * 9 + found.negative[:, a], both)
    first, second = (expected[a][1] for a in (0, 4))
    both = {p * 9 + n: x * y for p, x in first.items() for n, y in second.items()}
    agree(found.negative[:, 0] * 9 + found.negative[:, 4], both)


@pytest.mark.parametrize(
    "numbers",
    [
        WEIGHTED,
        {"dimensions": 16, "cutoff": 0.9, "furthest": 1.4},
        {"dimensions": 3, "cutoff": 0.1, "furthest": 1.2},
        {"dimensions": 128, "cutoff": 0.5, "furthest": 0.2},
    ],
    ids=["usual", "clipped", "sphere", "all_beyond"],
)
def test_distance_weighted_draws_with_the_inverse_of_the_density(numbers):
    d, *pairs = one_batch()
    found = frequencies(lambda key: triplets.distance_weighted(key, d, *pairs, **numbers), jax.random.key(1))
    expected = reference.distance_weighted(d.astype(np.float64), *pairs, **numbers)
    negative = found.negative.reshape(DRAWS, 9, 9)
    for a, p in zip(*np.nonzero(pairs[0]), strict=True):
        agree(negative[:, a, p], expected[a])
    # Draws of the two pairs of one anchor, and of two anchors, are independent.
    for (a, p), (b, q) in [((0, 1), (0, 2)), ((0, 1), (2, 1)), ((0, 1), (4, 3))]:
        both = {m * 9 + n: x * y for m, x in expected[a].items() for n, y in expected[b].items()}
        agree(negative[:, a, p] * 9 + negative[:, b, q], both)


def test_the_frequencies_can_tell_two_distributions_apart():
    d, *pairs = one_batch()
    found = frequencies(lambda key: triplets.batch_sample(key, 2.2 * d, *pairs), jax.random.key(0))
    of_negatives = reference.batch_sample(2 * d, *pairs)[0][1]
    with pytest.raises(AssertionError):
        agree(found.negative[:, 0], of_negatives)


def test_another_key_draws_others_and_the_same_key_the_same():
    d, *pairs = one_batch()
    for draw in (triplets.batch_sample, functools.partial(triplets.distance_weighted, **WEIGHTED)):
        draw = jax.jit(draw)
        one, same, other = (draw(jax.random.key(seed), d, *pairs).negative for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


# One battery for all


def hard_to_bear(kind):
    d, positive, negative = one_batch()
    nothing = np.zeros_like(positive)
    return {
        "no_positives": (d, nothing, negative),
        "no_negatives": (d, positive, nothing),
        "all_equal": (0 * d, positive, negative),
        "opposite": (np.full_like(d, 2.0), positive, negative),
        "huge": (1e6 * d, positive, negative),
    }[kind]


@pytest.mark.parametrize("kind", ["no_positives", "no_negatives", "all_equal", "opposite", "huge"])
@pytest.mark.parametrize("mining", MININGS)
def test_degenerate_batches_give_valid_triplets_or_none(mining, kind):
    d, positive, negative = hard_to_bear(kind)
    found = triplets.Triplets(*map(np.asarray, compiled(mining)(d, positive, negative)))
    a, p, n = (part[found.mask] for part in found[:3])
    assert positive[a, p].all()
    assert negative[a, n].all()
    assert found.mask.any() == (
        kind == "huge" or (mining != "semi_hard" and kind in ("all_equal", "opposite"))
    )  # nothing is strictly farther where all are equal


@pytest.mark.parametrize("kind", ["no_positives", "no_negatives", "all_equal", "opposite", "huge"])
def test_batch_weighted_is_finite_for_degenerate_batches(kind):
    d, *pairs = hard_to_bear(kind)

    def total(at):
        found = triplets.batch_weighted(at, *pairs)
        return jnp.sum(found.positive_distance - found.negative_distance, where=found.mask), found

    (value, found), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(d)
    assert all(np.isfinite(part).all() for part in (value, slope, *found))


@pytest.mark.parametrize("mining", MININGS)
def test_without_jit_the_same_triplets_are_chosen(mining):
    arrays = list(map(jnp.asarray, one_batch()))
    for ours, expected in zip(of_one(mining)(*arrays), compiled(mining)(*arrays), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("mining", MININGS)
def test_a_second_call_compiles_nothing(mining):
    function = jax.jit(lambda *arrays: of_one(mining)(*arrays))
    for arrays in batches((5, 9))[:3]:
        function(*arrays)
    assert function._cache_size() == 1


@pytest.mark.parametrize("mining", MININGS)
def test_references_that_are_not_valid_are_never_chosen(mining):
    rng = np.random.default_rng(8)
    for _ in range(20):
        label, other_label = rng.integers(0, 3, 5), rng.integers(0, 3, 9)
        valid = rng.random(9) < 0.6
        pairs = masks.pair_masks(label, other_label, np.arange(5), np.arange(5, 14), valid=valid)
        d = rng.uniform(0.3, 1.9, (5, 9)).astype(np.float32)
        d[:, ~valid] = rng.choice([0.0, 1e9])
        found = triplets.Triplets(*map(np.asarray, compiled(mining)(d, *pairs)))
        assert valid[found.positive[found.mask]].all()
        assert valid[found.negative[found.mask]].all()


@pytest.mark.parametrize("mining", MININGS)
def test_the_choice_has_no_gradient(mining):
    d, *pairs = one_batch()

    def picked(at):
        found = of_one(mining)(at, *pairs)
        return jnp.sum(jnp.where(found.mask, at[found.anchor, found.negative], 0.0))

    slope = np.asarray(jax.jit(jax.grad(picked))(d))
    found = triplets.Triplets(*map(np.asarray, of_one(mining)(jnp.asarray(d), *pairs)))
    expected = np.zeros_like(d)
    np.add.at(expected, (found.anchor[found.mask], found.negative[found.mask]), 1)
    np.testing.assert_array_equal(slope, expected)
