"""Metric-learning losses against pytorch-metric-learning (PML): values, and entries of the gradients.

golden/metric_losses.npz was written by make_golden_losses.py, in float64, for 100 random batches of 12 photos. Where
the definitions are not the same:

- PML's AvgNonZeroReducer is reduce.nonzero_mean; its MeanReducer is reduce.mean.
- A soft margin is PML's smooth_loss with a margin of 0.
- ContrastiveLoss has first powers of the distances, and adds the means of the positives and of the negatives.
- NPairsLoss takes the first two photos of each label, of those that have two.
- SupConLoss gives 0 where a batch has one label; the paper's loss, which compares the positives with one another, does
  not, and neither does sup_con. These batches are left out.
- TripletMarginMiner gives all semi-hard triplets inside a margin; semi_hard gives one for each pair, the nearest one,
  however far.
- ProxyNCALoss has the own proxy in its denominator; the paper does not.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.losses import contrastive, distances, margins, proxies, reduce, similarity, softmax, triplet
from fsl_jax.mining import masks, triplets
from fsl_jax.ops.norm import l2_normalise

GOLDEN = Path(__file__).parent / "golden" / "metric_losses.npz"
TOLERANCE = 1e-5
TRIPLET_MARGIN, CONTRASTIVE_MARGIN, BETA, BOUNDARY_MARGIN = 0.3, 1.8, 1.2, 0.2
ROWS, LABELS = 12, 12


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def pairs_of(labels):
    row = jnp.arange(ROWS)
    return masks.pair_masks(labels, labels, row, row)


# Each loss as a function of embeddings, of what else is learnt, and of labels.


def all_triplets(reducer, margin):
    def loss(rows, learnt, labels):
        return reducer(triplet.batch_all(distances.euclidean(rows, rows), *pairs_of(labels), margin=margin))

    return loss


def hard_triplets(reducer, margin):
    def loss(rows, learnt, labels):
        d = distances.euclidean(rows, rows)
        at = triplets.batch_hard(d, *pairs_of(labels))
        near, far = d[at.anchor, at.positive], d[at.anchor, at.negative]
        return reducer(triplet.triplet(near, far, at.mask, margin=margin))

    return loss


def contrastive_pairs(rows, learnt, labels):
    d, (positive, negative) = distances.euclidean(rows, rows), pairs_of(labels)
    parts = (
        contrastive.contrastive(d, positive, side, margin=CONTRASTIVE_MARGIN, power=1)
        for side in (positive, negative)
    )
    return sum(map(reduce.nonzero_mean, parts))


def of_similarity(function, reducer, **options):
    def loss(rows, learnt, labels):
        return reducer(function(1 - distances.cosine(rows, rows), *pairs_of(labels), **options))

    return loss


def margin_loss(rows, learnt, labels):
    unit = l2_normalise(rows)
    d, (positive, negative) = distances.euclidean(unit, unit), pairs_of(labels)
    mask = positive[:, :, None] & negative[:, None, :]
    near, far, beta = (
        jnp.broadcast_to(part, mask.shape).reshape(-1)
        for part in (d[:, :, None], d[:, None, :], learnt[labels][:, None, None])
    )
    return reduce.nonzero_mean(margins.boundary(near, far, mask.reshape(-1), beta, margin=BOUNDARY_MARGIN))


def of_cosines(function, **options):
    def loss(rows, learnt, labels):
        return reduce.mean(function(1 - distances.cosine(rows, learnt), labels, **options))

    return loss


def proxy_nca(rows, learnt, labels):
    return reduce.mean(proxies.proxy_nca(rows, learnt, labels, scale=3.0, own_in_denominator=True))


def proxy_anchor(rows, learnt, labels):
    pull, push = proxies.proxy_anchor(1 - distances.cosine(rows, learnt), labels, margin=0.1, scale=32.0)
    return reduce.mean(pull) + reduce.mean(push)


MULTI_SIMILARITY = functools.partial(
    of_similarity, similarity.multi_similarity, reduce.mean, positive_scale=2.0, negative_scale=40.0, threshold=0.5
)  # fmt: skip
LOSSES = {
    "triplet_all": all_triplets(reduce.mean, TRIPLET_MARGIN),
    "triplet_all_nonzero": all_triplets(reduce.nonzero_mean, TRIPLET_MARGIN),
    "triplet_all_soft": all_triplets(reduce.mean, None),
    "triplet_hard": hard_triplets(reduce.mean, TRIPLET_MARGIN),
    "triplet_hard_nonzero": hard_triplets(reduce.nonzero_mean, TRIPLET_MARGIN),
    "triplet_hard_soft": hard_triplets(reduce.mean, None),
    "contrastive": contrastive_pairs,
    "nt_xent": of_similarity(contrastive.nt_xent, reduce.mean, temperature=0.1),
    "sup_con": of_similarity(contrastive.sup_con, reduce.nonzero_mean, temperature=0.1),
    "multi_similarity": MULTI_SIMILARITY(mining_margin=None),
    "multi_similarity_mined": MULTI_SIMILARITY(mining_margin=0.1),
    "circle": of_similarity(similarity.circle, reduce.nonzero_mean, relaxation=0.4, scale=80.0),
    "margin": margin_loss,
    "arcface": of_cosines(softmax.arcface, margin=0.5, scale=64.0),
    "cosface": of_cosines(softmax.cosface, margin=0.35, scale=64.0),
    "normalised": of_cosines(softmax.normalised, temperature=0.05),
    "proxy_nca": proxy_nca,
    "proxy_anchor": proxy_anchor,
}


def learnt_of(name, golden, number):
    """What a loss learns besides the embeddings: proxies, or a boundary a label."""
    return np.full(LABELS, BETA, np.float32) if name == "margin" else golden["proxies"][number % 10]


@functools.cache
def compiled(name):
    return jax.jit(jax.value_and_grad(LOSSES[name], argnums=(0, 1)))


def entries_of(gradient, chosen):
    """The entries of a gradient that the golden file keeps: the chosen ones, or all of a boundary a label."""
    flat = np.asarray(gradient).reshape(-1)
    return flat if flat.size == LABELS else flat[chosen]


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_those_of_pytorch_metric_learning(name, golden):
    for number, labels in enumerate(golden["labels"].astype(np.int32)):
        if name == "sup_con" and len(set(labels)) == 1:
            continue
        arguments = golden["embeddings"][number], learnt_of(name, golden, number), labels
        value, gradients = compiled(name)(*arguments)
        np.testing.assert_allclose(
            value, golden[f"{name}/value"][number], TOLERANCE, err_msg=f"batch {number}"
        )
        for part, gradient in zip(("embedding", "learnt"), gradients, strict=True):
            if f"{name}/{part}_largest" in golden:
                largest = golden[f"{name}/{part}_largest"][number]
                got = entries_of(gradient, golden["chosen"][number])
                error = np.abs(got - golden[f"{name}/{part}_entries"][number]).max()
                assert error <= TOLERANCE * largest, f"batch {number}: {part} {error} of {largest}"
                np.testing.assert_allclose(np.abs(gradient).max(), largest, TOLERANCE)


def test_n_pair_is_that_of_pytorch_metric_learning(golden):
    loss = jax.jit(
        jax.value_and_grad(lambda rows, one, other: reduce.mean(contrastive.n_pair(rows[one], rows[other])))
    )
    for number, labels in enumerate(golden["labels"]):
        twos = [np.flatnonzero(labels == label)[:2] for label in np.unique(labels)]
        first, second = np.array([two for two in twos if len(two) == 2], int).reshape(-1, 2).T
        if not len(first):
            assert golden["n_pairs/value"][number] == 0
            continue
        value, gradient = loss(golden["embeddings"][number], first, second)
        np.testing.assert_allclose(value, golden["n_pairs/value"][number], TOLERANCE, atol=TOLERANCE)
        largest = golden["n_pairs/embedding_largest"][number]
        got = entries_of(gradient, golden["chosen"][number])
        assert np.abs(got - golden["n_pairs/embedding_entries"][number]).max() <= TOLERANCE * largest


def test_semi_hard_takes_the_nearest_of_the_triplets_of_pytorch_metric_learning(golden):
    found = 0
    for number, packed in enumerate(golden["semi_hard"]):
        inside = np.unpackbits(packed)[: ROWS**3].reshape(ROWS, ROWS, ROWS).astype(bool)
        d = np.asarray(distances.euclidean(*[jnp.asarray(golden["embeddings"][number])] * 2))
        at = triplets.semi_hard(jnp.asarray(d), *pairs_of(golden["labels"][number].astype(np.int32)))
        for a, p, n, there in zip(*map(np.asarray, at), strict=True):
            if inside[a, p].any():
                assert there
                assert n == min(np.flatnonzero(inside[a, p]), key=lambda other, d=d, a=a: d[a, other])
                found += 1
            elif there:
                assert d[a, n] - d[a, p] > 1.0
    assert found > 200


def test_golden_values_vary_so_that_agreement_means_something(golden):
    for name in LOSSES:
        assert np.std(golden[f"{name}/value"]) > 0.01, name
        assert np.median(golden[f"{name}/embedding_largest"]) > 0.001, name


def test_golden_file_is_what_pytorch_metric_learning_gives_today(golden):
    reason = "pytorch-metric-learning is not installed; the golden file stands for it"
    pytest.importorskip("pytorch_metric_learning", reason=reason)
    from make_golden_losses import outputs

    found = outputs()
    assert found.keys() == golden.keys()
    for key, array in found.items():
        np.testing.assert_allclose(array, golden[key], rtol=1e-6, atol=1e-12, err_msg=key)
