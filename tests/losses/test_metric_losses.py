"""Metric-learning losses against loops written from the papers (reference.py), and one battery over all of them.

Two layouts: a batch against itself, and a batch against a memory of references, some of which are not valid and some
of which are photos of the batch.
"""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import reference

from fsl_jax.losses import contrastive, distances, margins, proxies, reduce, similarity, softmax, triplet
from fsl_jax.mining import masks, triplets
from fsl_jax.ops.norm import l2_normalise
from fsl_jax.types import PerAnchor, PerItem

BATCHES, WITH_GRADIENT = 100, 6
WIDTH, MARGIN = 4, 0.3
TOLERANCE = 1e-5
CIRCLE = {"relaxation": 0.25, "scale": 32.0}
MULTI_SIMILARITY = {"positive_scale": 2.0, "negative_scale": 40.0, "threshold": 0.5}
LAYOUTS = {"batch": (8, 8), "memory": (5, 9)}
"""Anchors and references."""


class Rows(NamedTuple):
    """Rows of one batch: as arrays of JAX for the code, of NumPy for the loops."""

    label: np.ndarray
    row: np.ndarray
    other_label: np.ndarray
    other_row: np.ndarray
    valid: np.ndarray
    text: np.ndarray
    other_text: np.ndarray
    boundary: np.ndarray


# Each loss as a function of (anchors, references, rows), by fsl_jax and by the loops. Both give the scalar that is
# differentiated, and all items.


def scores(anchors, references, rows, name):
    """Distances, or similarities, and masks, by fsl_jax."""
    found = masks.pair_masks(rows.label, rows.other_label, rows.row, rows.other_row, valid=rows.valid)
    made = {**distances.DISTANCES, "similarity": lambda left, right: 1.0 - distances.cosine(left, right)}
    return made[name](anchors, references), found.positive, found.negative


def scores_by_loops(anchors, references, rows, name):
    found = reference.pair_masks(rows.label, rows.other_label, rows.row, rows.other_row, rows.valid)
    if name == "similarity":
        return reference.similarities(anchors, references), *found
    return reference.distances(name, anchors, references), *found


def of(chosen, d):
    """Distances of chosen triplets."""
    return d[chosen.anchor, chosen.positive], d[chosen.anchor, chosen.negative], chosen.mask


def hard(name, margin):
    def ours(anchors, references, rows):
        d, *pairs = scores(anchors, references, rows, name)
        items = triplet.triplet(*of(triplets.batch_hard(d, *pairs), d), margin=margin)
        return reduce.mean(items), items

    def loops(anchors, references, rows):
        d, *pairs = scores_by_loops(anchors, references, rows, name)
        near, far, mask = np.zeros(len(d)), np.zeros(len(d)), np.zeros(len(d), bool)
        for a, (p, n) in reference.batch_hard(d, *pairs).items():
            near[a], far[a], mask[a] = d[a, p], d[a, n], True
        items = reference.triplet(near, far, mask, margin)
        return reference.mean(items), items

    return ours, loops


def semi_hard():
    def ours(anchors, references, rows):
        d, *pairs = scores(anchors, references, rows, "squared_euclidean")
        items = triplet.triplet(*of(triplets.semi_hard(d, *pairs), d), margin=MARGIN)
        return reduce.nonzero_mean(items), items

    def loops(anchors, references, rows):
        d, *pairs = scores_by_loops(anchors, references, rows, "squared_euclidean")
        near, far, mask = np.zeros(d.shape), np.zeros(d.shape), np.zeros(d.shape, bool)
        for (a, p), n in reference.semi_hard(d, *pairs).items():
            near[a, p], far[a, p], mask[a, p] = d[a, p], d[a, n], True
        items = reference.triplet(near.ravel(), far.ravel(), mask.ravel(), MARGIN)
        return reference.nonzero_mean(items), items

    return ours, loops


def weighted(margin):
    def ours(anchors, references, rows):
        items = triplet.triplet(
            *triplets.batch_weighted(*scores(anchors, references, rows, "euclidean")), margin=margin
        )
        return reduce.mean(items), items

    def loops(anchors, references, rows):
        found = reference.batch_weighted(*scores_by_loops(anchors, references, rows, "euclidean"))
        items = reference.triplet(*found, margin)
        return reference.mean(items), items

    return ours, loops


def every(name, margin, reducer="mean", **adaptive):
    """Batch all; adaptive: margins from descriptions."""

    def ours(anchors, references, rows):
        at = margin
        if adaptive:
            at = margins.from_descriptions(rows.text, rows.other_text, base=margin, **adaptive)
        items = triplet.batch_all(*scores(anchors, references, rows, name), margin=at)
        return getattr(reduce, reducer)(items), items

    def loops(anchors, references, rows):
        at = margin
        if adaptive:
            at = reference.from_descriptions(rows.text, rows.other_text, base=margin, **adaptive)
        items = reference.batch_all(*scores_by_loops(anchors, references, rows, name), at)
        return getattr(reference, reducer)(items), items

    return ours, loops


def given(margin_of):
    """Rows anchor, positive, negative, ...: each triplet with a margin of its own, distances row by row."""

    def ours(anchors, references, rows):
        count = len(anchors) // 3 * 3
        at = triplets.given(count)
        near, far = (
            distances.paired("euclidean")(anchors[at.anchor], anchors[i]) for i in (at.positive, at.negative)
        )
        items = triplet.triplet(near, far, at.mask, margin=margin_of(rows)[: count // 3])
        return reduce.mean(items), items

    def loops(anchors, references, rows):
        count = len(anchors) // 3 * 3
        near, far = (reference.paired("euclidean", anchors[0:count:3], anchors[k:count:3]) for k in (1, 2))
        items = reference.triplet(near, far, np.ones(count // 3, bool), margin_of(rows)[: count // 3])
        return reference.mean(items), items

    return ours, loops


def pairs_of(**options):
    """Contrastive over all pairs of the masks."""

    def flat(d, positive, negative):
        return d.reshape(-1), positive.reshape(-1), (positive | negative).reshape(-1)

    def ours(anchors, references, rows):
        items = contrastive.contrastive(*flat(*scores(anchors, references, rows, "euclidean")), **options)
        return reduce.mean(items), items

    def loops(anchors, references, rows):
        d, same, mask = flat(*scores_by_loops(anchors, references, rows, "euclidean"))
        items = reference.contrastive(d, same, mask, **options)
        return reference.mean(items), items

    return ours, loops


def of_similarity(function, by_loops, reducer="mean", **options):
    """A loss of similarities and masks."""

    def ours(anchors, references, rows):
        items = function(*scores(anchors, references, rows, "similarity"), **options)
        return getattr(reduce, reducer)(items), items

    def loops(anchors, references, rows):
        items = by_loops(*scores_by_loops(anchors, references, rows, "similarity"), **options)
        return getattr(reference, reducer)(items), items

    return ours, loops


def n_pair():
    def ours(anchors, references, rows):
        items = contrastive.n_pair(anchors, references[: len(anchors)][::-1])
        return reduce.mean(items), items

    def loops(anchors, references, rows):
        items = reference.n_pair(anchors, references[: len(anchors)][::-1])
        return reference.mean(items), items

    return ours, loops


def boundary():
    """Over all triplets, laid out as [a, r, r]."""

    def grid(positive, negative):
        return positive[:, :, None] & negative[:, None, :]

    def ours(anchors, references, rows):
        left, right = (l2_normalise(part.astype(jnp.float32)) for part in (anchors, references))
        d, positive, negative = scores(left, right, rows, "euclidean")
        mask = grid(positive, negative)
        near, far, beta = (
            jnp.broadcast_to(part, mask.shape).reshape(-1)
            for part in (d[:, :, None], d[:, None, :], rows.boundary[: len(d), None, None])
        )
        items = margins.boundary(near, far, mask.reshape(-1), beta, margin=0.2)
        return reduce.nonzero_mean(items), items

    def loops(anchors, references, rows):
        left, right = (reference.unit(part) for part in (anchors, references))
        d, positive, negative = scores_by_loops(left, right, rows, "euclidean")
        mask = grid(positive, negative)
        near, far, beta = (
            np.broadcast_to(part, mask.shape).ravel()
            for part in (d[:, :, None], d[:, None, :], rows.boundary[: len(d), None, None])
        )
        items = reference.boundary(near, far, mask.ravel(), beta, 0.2)
        return reference.nonzero_mean(items), items

    return ours, loops


def of_labels(name, **options):
    """A loss of cosines to one vector a label; references serve as these vectors, turned away from themselves."""

    def ours(anchors, references, rows):
        cosines = 1.0 - distances.cosine(anchors, jnp.roll(references, 1, axis=1))
        items = getattr(softmax, name)(cosines, rows.label, **options)
        return reduce.mean(items), items

    def loops(anchors, references, rows):
        cosines = reference.similarities(anchors, np.roll(references, 1, axis=1))
        items = getattr(reference, name)(cosines, rows.label, **options)
        return reference.mean(items), items

    return ours, loops


def proxy_nca(**options):
    def ours(anchors, references, rows):
        items = proxies.proxy_nca(anchors, references, rows.label, **options)
        return reduce.mean(items), items

    def loops(anchors, references, rows):
        items = reference.proxy_nca(anchors, references, rows.label, **options)
        return reference.mean(items), items

    return ours, loops


def proxy_anchor(**options):
    def ours(anchors, references, rows):
        cosines = 1.0 - distances.cosine(anchors, references)
        pull, push = proxies.proxy_anchor(cosines, rows.label, **options)
        return reduce.mean(pull) + reduce.mean(push), (pull, push)

    def loops(anchors, references, rows):
        cosines = reference.similarities(anchors, references)
        pull, push = reference.proxy_anchor(cosines, rows.label, **options)
        return reference.mean(pull) + reference.mean(push), (pull, push)

    return ours, loops


OF_PAIRS = {
    "triplet_hard": hard("euclidean", MARGIN),
    "triplet_semi_hard": semi_hard(),
    "triplet_weighted": weighted(MARGIN),
    "batch_all": every("euclidean", MARGIN),
    "batch_all_soft": every("euclidean", None),
    "batch_all_multiplied": every("squared_euclidean", 0.2, scaling="multiply"),
    "contrastive": pairs_of(margin=2.0),
    "nt_xent": of_similarity(contrastive.nt_xent, reference.nt_xent, temperature=0.1),
    "sup_con": of_similarity(contrastive.sup_con, reference.sup_con, temperature=0.1),
    "multi_similarity": of_similarity(
        similarity.multi_similarity, reference.multi_similarity, **MULTI_SIMILARITY, mining_margin=None
    ),
    "multi_similarity_mined": of_similarity(
        similarity.multi_similarity, reference.multi_similarity, **MULTI_SIMILARITY, mining_margin=0.1
    ),
    "circle": of_similarity(similarity.circle, reference.circle, "nonzero_mean", **CIRCLE),
    "boundary": boundary(),
}
"""Losses of pairs of anchor and reference, where a reference that is not valid has no part."""
VARIANTS = {
    "triplet_hard_soft": hard("squared_euclidean", None),
    "triplet_hard_cosine": hard("cosine", MARGIN),
    "triplet_weighted_soft": weighted(None),
    "batch_all_nonzero": every("squared_euclidean", MARGIN, "nonzero_mean"),
    "batch_all_divided": every("squared_euclidean", 0.2, "nonzero_mean", scaling="divide"),
    "contrastive_half": pairs_of(margin=2.0, half=True),
    "contrastive_first_power": pairs_of(margin=2.0, power=1),
}
"""The same with other options; slow, and not in the battery."""
OTHERS = {
    "triplet_given": given(lambda rows: rows.boundary),
    "n_pair": n_pair(),
    "cross_entropy_smoothed": of_labels("cross_entropy", smoothing=0.1),
    "normalised": of_labels("normalised", temperature=0.05),
    "cosface": of_labels("cosface", margin=0.35, scale=32.0),
    "arcface": of_labels("arcface", margin=0.5, scale=32.0),
    "proxy_nca": proxy_nca(scale=3.0, own_in_denominator=False),
    "proxy_nca_softmax": proxy_nca(scale=3.0, own_in_denominator=True),
    "proxy_anchor": proxy_anchor(margin=0.1, scale=32.0),
}
"""Losses without masks of pairs; in the layout of a memory, where there are more labels than photos."""
LOSSES = OF_PAIRS | OTHERS
EVERY = LOSSES | VARIANTS
MAIN = {name: "memory" if name in OTHERS else "batch" for name in EVERY}
"""The layout of a loss in the battery."""
IN_MEMORY = [
    "triplet_semi_hard",
    "batch_all_multiplied",
    "nt_xent",
    "multi_similarity_mined",
    "circle",
    "boundary",
]
"""Losses of pairs that are tried in the other layout too; all of them by the slow tests."""
CASES = [
    *((name, MAIN[name]) for name in LOSSES),
    *((name, "memory") for name in IN_MEMORY),
    *(pytest.param(name, "batch", marks=pytest.mark.slow) for name in VARIANTS),
    *(pytest.param(name, "memory", marks=pytest.mark.slow) for name in OF_PAIRS if name not in IN_MEMORY),
]


# Random batches


def far_from_kinks(left, right):
    """Says that no hinge and no choice of a mining is so near that rounding to float32 could decide it."""
    spread = []
    for name, constants in (
        ("euclidean", (0, MARGIN)),
        ("squared_euclidean", (0, MARGIN, 0.2)),
        ("cosine", (0, MARGIN, 0.1)),
    ):
        d = reference.distances(name, left, right)
        gaps = (d[:, :, None] - d[:, None, :])[:, ~np.eye(d.shape[1], dtype=bool)]
        spread += [gaps + c for c in constants]
    unit = reference.distances("euclidean", reference.unit(left), reference.unit(right))
    spread += [
        reference.distances("euclidean", left, right) - 2.0,
        *(unit - bound for bound in (0.9, 1.1, 1.3, 1.5)),
    ]
    return min(float(np.abs(part).min()) for part in spread) > 1e-5


def label_rows(rng, count, other, number):
    """Labels of anchors and of a memory: P x K, ragged with singletons, one label, no positives."""
    everyone = max(count, other)
    kind = number % 5
    if kind == 0:
        label = np.arange(everyone) // 2
    elif kind == 1:
        label = np.zeros(everyone, int) + rng.integers(other)
    elif kind == 2:
        label = rng.permutation(everyone)
    else:
        label = rng.integers(0, 4, everyone)
    if count == other:
        return label % other, label % other
    if kind == 2:
        return label[:count] % other, np.full(other, other - 1)
    return label[:count] % other, rng.permutation(label) % other


@functools.cache
def random_batches(layout):
    """[(embeddings of anchors and memory, Rows)] of a layout; a batch against itself has no memory."""
    (count, other), rng, found = LAYOUTS[layout], np.random.default_rng(5), []
    rows = count if layout == "batch" else count + other
    while len(found) < BATCHES:
        label, other_label = label_rows(rng, count, other, len(found))
        embeddings = rng.standard_normal((rows, WIDTH)).astype(np.float32)
        row, other_row = np.arange(count), np.arange(count, count + other)
        valid = np.ones(other, bool)
        if layout == "batch":
            other_row = row
        else:
            # The first two anchors lie in the memory too, and two of its places are empty.
            other_row[:2], other_label[:2] = row[:2], label[:2]
            valid[rng.choice(np.arange(2, other), 2, replace=False)] = False
        left = embeddings[:count].astype(np.float64)
        if not far_from_kinks(left, embeddings[-other:].astype(np.float64)):
            continue
        text, other_text = (rng.standard_normal((n, 3)).astype(np.float32) for n in (count, other))
        text[0], other_text[-1] = 0.0, 0.0
        beta = rng.choice([1.1, 1.3], count).astype(np.float32)
        found.append((embeddings, Rows(label, row, other_label, other_row, valid, text, other_text, beta)))
    return found


def parts(embeddings, layout):
    count, other = LAYOUTS[layout]
    return embeddings[:count], embeddings[-other:]


@functools.cache
def compiled(name, layout):
    """((scalar, items), gradient) of a loss with respect to all embeddings."""
    ours = EVERY[name][0]
    return jax.jit(
        jax.value_and_grad(lambda embeddings, rows: ours(*parts(embeddings, layout), rows), has_aux=True)
    )


def frozen(name, embeddings, layout):
    """The loops of a loss; Circle's weights, which are no part of its gradient, stay at these embeddings."""
    if name != "circle":
        return EVERY[name][1]
    options = {**CIRCLE, "weights_of": reference.similarities(*parts(embeddings, layout))}
    return of_similarity(None, reference.circle, "nonzero_mean", **options)[1]


def close(got, expected, what):
    """Within the tolerance of the largest entry.

    A small value is a difference of distances of about 3, and has their rounding error; MARGIN stands for their scale.
    """
    expected = np.asarray(expected, np.float64)
    largest = np.abs(expected).max(initial=MARGIN)
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE * largest, err_msg=what)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_hundred_random_batches_equal_the_loops(name, layout):
    above_zero = 0
    for number, (embeddings, rows) in enumerate(random_batches(layout)):
        (scalar, items), _ = compiled(name, layout)(embeddings, rows)
        expected, expected_items = EVERY[name][1](*parts(embeddings.astype(np.float64), layout), rows)
        close(scalar, expected, f"batch {number}")
        for got, wanted in zip(jax.tree.leaves(items), jax.tree.leaves(expected_items), strict=True):
            close(np.asarray(got).reshape(-1), np.asarray(wanted).reshape(-1), f"items of batch {number}")
        above_zero += expected > 0
    assert above_zero >= 30


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_gradients_equal_central_differences_of_the_loops(name, layout):
    for number, (embeddings, rows) in enumerate(random_batches(layout)[:WITH_GRADIENT]):
        _, gradient = compiled(name, layout)(embeddings, rows)
        loops = frozen(name, embeddings, layout)
        expected = reference.numerical_gradient(
            lambda at, loops=loops, rows=rows: loops(*parts(at, layout), rows)[0],
            embeddings.astype(np.float64),
        )
        # 1e-8: the differences themselves, where all of a gradient is nothing.
        largest = np.abs(expected).max()
        error = np.abs(gradient - expected).max()
        assert error <= TOLERANCE * largest + 1e-8, f"batch {number}: {error} of {largest}"


# One battery for all


def degenerate(kind, layout):
    """A batch in which something is missing."""
    embeddings, rows = random_batches(layout)[3]
    count, other = LAYOUTS[layout]
    if kind == "no_positives":
        rows = rows._replace(label=np.arange(count), other_label=np.arange(other), other_row=np.arange(other))
    if kind == "one_label":
        rows = rows._replace(label=np.full(count, 2), other_label=np.full(other, 2))
    changed = {
        "zeros": 0 * embeddings,
        "one_zero": embeddings * (np.arange(len(embeddings)) > 0)[:, None],
        "all_equal": np.broadcast_to(embeddings[:1], embeddings.shape),
        "twins": embeddings[np.arange(len(embeddings)) // 2],
        "opposite": embeddings[:1] * (-1) ** np.arange(len(embeddings))[:, None],
    }
    return changed.get(kind, embeddings).astype(np.float32), rows


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_finite_for_degenerate_batches(name):
    for kind in ("no_positives", "one_label", "zeros", "one_zero", "all_equal", "twins", "opposite"):
        (scalar, items), gradient = compiled(name, MAIN[name])(*degenerate(kind, MAIN[name]))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((scalar, items))), kind
        assert np.isfinite(gradient).all(), kind
        # Rounding of a distance of 0 must not be blown up by the derivative of its root.
        assert np.abs(gradient).max() < 100, kind


OF_TRIPLETS = [name for name in LOSSES if name.startswith(("triplet", "batch_all")) and name not in OTHERS]


@pytest.mark.parametrize("kind", ["no_positives", "one_label"])
@pytest.mark.parametrize("name", [*OF_TRIPLETS, "nt_xent", "circle", "boundary", "multi_similarity_mined"])
def test_without_a_triplet_there_is_no_loss_and_no_gradient(name, kind):
    (scalar, _), gradient = compiled(name, "batch")(*degenerate(kind, "batch"))
    assert scalar == 0
    np.testing.assert_array_equal(gradient, 0)


QUICK = [
    *[
        "triplet_semi_hard",
        "batch_all_multiplied",
        "contrastive",
        "nt_xent",
        "n_pair",
        "multi_similarity_mined",
    ],
    *["circle", "boundary", "arcface", "proxy_nca", "proxy_anchor"],
]
# Without jit every operation is compiled by itself.
SOME_SLOW = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES]


@pytest.mark.parametrize("name", SOME_SLOW)
def test_without_jit_the_value_is_the_same(name):
    embeddings, rows = random_batches(MAIN[name])[3]
    (expected, _), _ = compiled(name, MAIN[name])(embeddings, rows)
    scalar, _ = EVERY[name][0](*map(jnp.asarray, parts(embeddings, MAIN[name])), rows)
    np.testing.assert_allclose(scalar, expected, rtol=1e-5)


@pytest.mark.parametrize("name", SOME_SLOW)
def test_bfloat16_is_widened_before_anything_is_computed(name):
    embeddings, rows = random_batches(MAIN[name])[3]
    narrow = jnp.asarray(embeddings, jnp.bfloat16)
    (expected, wide), _ = compiled(name, MAIN[name])(np.asarray(narrow, np.float32), rows)
    scalar, items = EVERY[name][0](*parts(narrow, MAIN[name]), rows)
    for got, wanted in zip(jax.tree.leaves((scalar, items)), jax.tree.leaves((expected, wide)), strict=True):
        assert got.dtype == wanted.dtype
    np.testing.assert_allclose(scalar, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["triplet_hard", "batch_all", "circle", "n_pair", "arcface"])
def test_the_gradient_of_bfloat16_is_that_of_the_widened_embeddings(name):
    embeddings, rows = random_batches(MAIN[name])[3]
    narrow = jnp.asarray(embeddings, jnp.bfloat16)
    _, wide = compiled(name, MAIN[name])(np.asarray(narrow, np.float32), rows)
    gradient = jax.jit(jax.grad(lambda at: EVERY[name][0](*parts(at, MAIN[name]), rows)[0]))(narrow)
    assert gradient.dtype == jnp.bfloat16
    # Rounded to 8 bits in up to two parts, as an anchor and as a reference.
    error = np.abs(gradient.astype(jnp.float32) - wide).max()
    assert error < 0.02 * np.abs(wide).max()


@pytest.mark.parametrize("name", LOSSES)
def test_a_second_call_compiles_nothing(name):
    for embeddings, rows in random_batches(MAIN[name])[:3]:
        compiled(name, MAIN[name])(embeddings, rows)
    assert compiled(name, MAIN[name])._cache_size() == 1


@pytest.mark.parametrize("name", IN_MEMORY)
def test_references_that_are_not_valid_do_not_matter(name):
    embeddings, rows = random_batches("memory")[3]
    (expected, _), gradient = compiled(name, "memory")(embeddings, rows)
    empty = ~rows.valid
    other = embeddings.copy()
    other[5:][empty] *= 1000
    changed = rows._replace(
        other_label=np.where(empty, rows.label[0], rows.other_label),
        other_row=np.where(empty, rows.row[0], rows.other_row),
    )
    (scalar, _), other_gradient = compiled(name, "memory")(other, changed)
    np.testing.assert_allclose(scalar, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, other_gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(other_gradient[5:][empty], 0)


MASKED = {
    "triplet": lambda d, mask: triplet.triplet(d, d[::-1], mask, margin=MARGIN),
    "triplet_soft": lambda d, mask: triplet.triplet(d, d[::-1], mask, margin=None),
    "contrastive": lambda d, mask: contrastive.contrastive(d, d > 1.0, mask, margin=2.0),
    "boundary": lambda d, mask: margins.boundary(d, d[::-1], mask, jnp.full(d.shape, 1.2), margin=0.2),
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_pairs_and_triplets_have_no_value_and_no_gradient(name):
    mask = jnp.asarray([True, False, True, False, True])
    d, other = jnp.asarray([0.5, 1.5, 2.5, 0.7, 0.9]), jnp.asarray([0.5, 1e9, 2.5, 1e9, 0.9])

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def ours(at):
        items = MASKED[name](at, mask)
        return jnp.sum(items.value), items

    ((_, items), first), ((_, others), second) = ours(d), ours(other)
    np.testing.assert_array_equal(items.value[~items.mask], 0)
    np.testing.assert_array_equal(first[1::2], 0)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    np.testing.assert_allclose(items.value, others.value, rtol=1e-6)


# Single losses


def test_batch_all_needs_no_array_of_triplets():
    shape = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    mask = jax.ShapeDtypeStruct((512, 512), bool)
    for margin in (MARGIN, None):

        def total(d, positive, negative, margin=margin):
            return reduce.nonzero_mean(triplet.batch_all(d, positive, negative, margin=margin))

        program = jax.jit(jax.value_and_grad(total)).lower(shape, mask, mask).compile()
        # All triplets would be 512 MB.
        assert program.memory_analysis().temp_size_in_bytes < 100e6


@pytest.mark.parametrize("margin", [MARGIN, None])
def test_batch_all_of_an_odd_large_batch_equals_the_loops(margin):
    rng = np.random.default_rng(3)
    left, right = (rng.standard_normal((n, WIDTH)) for n in (37, 53))
    pairs = reference.pair_masks(rng.integers(0, 7, 37), rng.integers(0, 7, 53), np.arange(37), np.arange(53))
    d = reference.distances("euclidean", left, right).astype(np.float32)
    got = jax.jit(functools.partial(triplet.batch_all, margin=margin))(d, *pairs)
    expected = reference.batch_all(d.astype(np.float64), *pairs, margin)
    for part in PerAnchor.__dataclass_fields__:
        np.testing.assert_allclose(getattr(got, part), getattr(expected, part), rtol=1e-5, err_msg=part)


def test_batch_all_has_a_gradient_of_its_margins():
    embeddings, rows = random_batches("batch")[3]
    d, *pairs = scores_by_loops(*parts(embeddings.astype(np.float64), "batch"), rows, "euclidean")
    at = np.random.default_rng(0).uniform(0.1, 1.0, d.shape)
    total = jax.jit(jax.grad(lambda m, *given: reduce.mean(triplet.batch_all(*given, margin=m))))
    given = d.astype(np.float32), *pairs
    expected = reference.numerical_gradient(lambda m: reference.mean(reference.batch_all(d, *pairs, m)), at)
    close(total(at.astype(np.float32), *given), expected, "one for each pair")
    each = total(np.full(d.shape, 0.4, np.float32), *given)
    np.testing.assert_allclose(total(np.float32(0.4), *given), np.sum(each), rtol=1e-5)


def test_contrastive_may_have_the_first_power_or_half_of_the_second():
    d, same, mask = jnp.asarray([0.5, 0.5, 3.0]), jnp.asarray([True, False, False]), jnp.ones(3, bool)
    half = contrastive.contrastive(d, same, mask, margin=2.0, half=True)
    first = contrastive.contrastive(d, same, mask, margin=2.0, power=1)
    np.testing.assert_allclose(half.value, [0.125, 1.125, 0.0])
    np.testing.assert_allclose(first.value, [0.5, 1.5, 0.0])


def test_triplets_may_have_a_margin_each():
    near, far, mask = jnp.full(3, 1.0), jnp.full(3, 1.5), jnp.asarray([True, True, False])
    items = triplet.triplet(near, far, mask, margin=jnp.asarray([0.25, 1.0, 5.0]))
    np.testing.assert_allclose(items.value, [0.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("scaling", "opposite", "across"), [("multiply", 4.0, 2.25), ("divide", 0.5 + 4 / 3.5, 0.5 + 2 / 3.5)]
)
def test_margins_grow_with_the_distance_of_descriptions(scaling, opposite, across):
    text, other = np.float32([[3, 0], [0, 0]]), np.float32([[5, 0], [-1, 0], [0, 7], [0, 0]])
    got = jax.jit(functools.partial(margins.from_descriptions, base=0.5, scaling=scaling))(text, other)
    # A zero row says nothing, and leaves the base.
    np.testing.assert_allclose(got, [[0.5, opposite, across, 0.5], [0.5] * 4], rtol=1e-6)


def test_arcface_always_prefers_a_smaller_angle():
    own = jnp.linspace(-1.0, 1.0, 401)
    cosines = jnp.stack([own, jnp.zeros_like(own)], axis=1)
    labels = jnp.zeros(own.shape, int)

    @jax.jit
    def value_and_slope(at):
        value, pull = jax.vjp(lambda c: softmax.arcface(c, labels, margin=0.5, scale=8.0).value, at)
        return value, pull(jnp.ones_like(value))[0]

    value, slope = value_and_slope(cosines)
    assert (np.diff(value) < 0).all()
    assert np.isfinite(slope).all()
    assert (slope[:, 0] <= 1e-6).all()


def test_proxies_that_no_photo_has_are_pushed_but_not_pulled():
    cosines = jnp.asarray([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1]])
    ours = jax.jit(functools.partial(proxies.proxy_anchor, margin=0.1, scale=32.0))
    pull, push = ours(cosines, jnp.asarray([0, 0]))
    np.testing.assert_array_equal(pull.mask, [True, False, False])
    np.testing.assert_array_equal(push.mask, True)
    assert push.value[0] == 0


# Distances and reducers


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_distances_equal_the_loops_in_a_matrix_and_in_pairs(name):
    rng = np.random.default_rng(1)
    left, right = (rng.standard_normal((n, 5)).astype(np.float32) for n in (6, 9))
    expected = reference.distances(name, left, right)
    np.testing.assert_allclose(distances.DISTANCES[name](left, right), expected, rtol=1e-5)
    pairs = distances.paired(name)(jnp.asarray(left), jnp.asarray(right[:6]))
    np.testing.assert_allclose(pairs, np.diagonal(expected), rtol=1e-5)


def test_the_euclidean_distance_has_no_gradient_at_0():
    rows = jnp.asarray([[3.0, 4.0], [3.0, 4.0]])
    for function in (distances.euclidean, distances.paired("euclidean")):
        total = jax.jit(jax.value_and_grad(lambda left, function=function: jnp.sum(function(left, rows))))
        value, slope = total(rows)
        assert value == 0
        np.testing.assert_array_equal(slope, 0)


def test_reducers_equal_the_loops():
    rng, shares = np.random.default_rng(2), (0.2, 0.4, 1.0)
    ours = jax.jit(
        lambda items: [
            reduce.mean(items),
            reduce.nonzero_mean(items),
            *(reduce.worst(items, share=s) for s in shares),
        ]
    )
    for shape in [(1,), (7,), (4, 5)]:
        value = np.maximum(rng.standard_normal(shape), 0).astype(np.float32)
        items = reference.Items(value, rng.random(shape) < 0.6)
        expected = [reference.mean(items), reference.nonzero_mean(items)]
        expected += [reference.worst(items, share) for share in shares]
        np.testing.assert_allclose(ours(PerItem(*items)), expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.35, 0.4, 0.7, 1.0])
def test_the_worst_are_the_share_rounded_down_but_at_least_one(share):
    counts = np.arange(1, 301)
    values = jnp.arange(300.0)
    taken = jax.vmap(
        lambda count: jnp.sum(
            jax.grad(lambda v: reduce.worst(PerItem(v, jnp.arange(300) < count), share=share))(values) > 0
        )
    )(counts)
    np.testing.assert_array_equal(taken, [max(1, math.floor(Fraction(str(share)) * int(n))) for n in counts])


def test_the_worst_of_equal_items_are_as_many_as_of_others():
    items = PerItem(jnp.ones(10), jnp.ones(10, bool))
    slope = jax.grad(lambda v: reduce.worst(items.replace(value=v), share=0.4))(items.value)
    np.testing.assert_allclose(np.sort(slope), [0] * 6 + [0.25] * 4)


@pytest.mark.parametrize(
    "reducer", [reduce.mean, reduce.nonzero_mean, functools.partial(reduce.worst, share=0.4)]
)
def test_of_nothing_every_reducer_gives_0_with_a_zero_gradient(reducer):
    nothing = jnp.zeros(3, bool)
    value, slope = jax.value_and_grad(lambda v: reducer(PerItem(v, nothing)))(jnp.ones(3))
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("reducer", [reduce.mean, reduce.nonzero_mean])
def test_of_no_triplets_every_reducer_gives_0(reducer):
    assert reducer(PerAnchor(jnp.zeros(2), jnp.zeros(2, int), jnp.zeros(2, int))) == 0


@pytest.mark.parametrize("reducer", [reduce.mean, reduce.nonzero_mean])
def test_more_triplets_than_an_int32_counts_are_still_averaged(reducer):
    # 512 anchors with 64 positives in a memory of 65,536.
    number = jnp.full(512, 64 * 65_536, jnp.int32)
    np.testing.assert_allclose(reducer(PerAnchor(2.0 * number, number, number)), 2.0, rtol=1e-5)
