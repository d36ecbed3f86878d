"""Metric learning by composition: what goes together, on how many devices, and what is remembered."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.algorithms import _batches, classify, embedding
from fsl_jax.algorithms._objectives import LOSSES, MININGS
from fsl_jax.building import with_weights
from fsl_jax.mesh import data_mesh, replicated, rows_sharding
from fsl_jax.models.identity import Identity
from fsl_jax.types import Batch, Episode

LABELS, PHOTOS, DIMENSIONS = 8, 3, 6


class Linear(nn.Module):
    """A network of one layer, so that losses alone take time to compile."""

    norm: str = "running"

    @nn.compact
    def __call__(self, images, *, statistics):
        del statistics
        return nn.Dense(DIMENSIONS, name="linear")(images.reshape(images.shape[0], -1)), {}


OPTIONS = {
    "triplet": {"margin": 0.3},
    "adaptive_triplet": {"margin": 0.2, "scaling": "divide"},
    "margin": {"margin": 0.2, "start": 1.2},
    "contrastive": {"margin": 1.0},
    "nt_xent": {"temperature": 0.2},
    "sup_con": {"temperature": 0.2},
    "n_pair": {"photos": PHOTOS},
    "multi_similarity": {
        "positive_scale": 2.0,
        "negative_scale": 20.0,
        "threshold": 0.5,
        "mining_margin": 0.1,
    },
    "circle": {"relaxation": 0.4, "scale": 8.0},
    "normalised_softmax": {"temperature": 0.2},
    "arcface": {"margin": 0.3, "scale": 8.0},
    "cosface": {"margin": 0.3, "scale": 8.0},
    "proxy_nca": {"scale": 2.0, "own_in_denominator": True},
    "proxy_anchor": {"margin": 0.1, "scale": 8.0},
}
MINING_OPTIONS = {"distance_weighted": {"cutoff": 0.5, "furthest": 1.4}}
EVERY = [(loss, mining) for loss, what in LOSSES.items() for mining in (what.minings or ("",))]
# By default one mining of each loss, and the two of the triplet loss that differ most.
DEFAULT = [("triplet", "batch_hard"), *((loss, (what.minings or ("",))[0]) for loss, what in LOSSES.items())]
CASES = [pytest.param(*case, marks=[] if case in DEFAULT else [pytest.mark.slow]) for case in EVERY]


def make(loss, mining="", **options):
    return embedding.make(
        Linear(),
        labels=LABELS,
        loss=loss,
        loss_options=OPTIONS[loss],
        mining=mining,
        mining_options=MINING_OPTIONS.get(mining, {}),
        **options,
    )


def batch_of(seed=0, labels=LABELS, photos=PHOTOS):
    """P x K random photos, alike within a label, with description vectors."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(labels), photos)
    images = rng.standard_normal((labels, 1, 2, 2, 3)) + rng.standard_normal((labels, photos, 2, 2, 3))
    text = rng.standard_normal((labels, 5))[label].astype(np.float32)
    rows = jnp.arange(len(label))
    columns = {"row": rows, "text": jnp.asarray(text)}
    return Batch(jnp.asarray(images.reshape(-1, 2, 2, 3), jnp.float32), jnp.asarray(label), columns)


def close(one, other, **tolerance):
    for got, expected in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(got, expected, **tolerance)


@pytest.mark.parametrize(("loss", "mining"), CASES)
def test_a_batch_on_eight_devices_is_the_batch_on_one(loss, mining):
    method, batch, key = make(loss, mining), batch_of(), jax.random.key(1)
    variables = method.init(jax.random.key(0), batch)
    gradient = jax.jit(method.gradient)
    (one, aux), gradients = gradient(variables.params, variables.collections, batch, key)
    mesh = data_mesh(8)
    spread = jax.device_put(batch, rows_sharding(mesh))
    everywhere = jax.device_put((variables.params, variables.collections, key), replicated(mesh))
    (other, other_aux), others = gradient(everywhere[0], everywhere[1], spread, everywhere[2])
    assert len(spread.image.sharding.device_set) == 8
    assert float(one) > 0
    np.testing.assert_allclose(other, one, rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    assert largest > 0
    close(others, gradients, rtol=1e-5, atol=1e-5 * largest)
    close(other_aux, aux, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("loss", "mining"), CASES)
def test_steps_on_one_batch_lower_its_loss(loss, mining):
    method, batch, key = make(loss, mining), batch_of(), jax.random.key(1)
    variables = method.init(jax.random.key(0), batch)
    gradient, params, losses = jax.jit(method.gradient), variables.params, []
    for _ in range(25):
        (value, _), gradients = gradient(params, variables.collections, batch, key)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, gradients)
        losses.append(float(value))
    if mining == "semi_hard":
        # Its mean is over other triplets from step to step; all of them together must part nevertheless.
        whole = make(loss, "batch_all" if "batch_all" in LOSSES[loss].minings else "batch_hard")
        first, last = (
            whole.loss(p, variables.collections, batch, key)[0] for p in (variables.params, params)
        )
        losses = [float(first), float(last)]
    assert losses[-1] < losses[0]


def test_equal_descriptions_give_the_plain_triplet_loss_exactly():
    batch = batch_of()
    same = batch.replace(columns={**batch.columns, "text": jnp.ones_like(batch.columns["text"]) * 0.37})
    plain = embedding.make(
        Linear(), labels=LABELS, loss="triplet", loss_options={"margin": 0.2}, mining="batch_hard"
    )
    variables = plain.init(jax.random.key(0), batch)
    for scaling in ("divide", "multiply"):
        adaptive = embedding.make(
            Linear(),
            labels=LABELS,
            loss="adaptive_triplet",
            loss_options={"margin": 0.2, "scaling": scaling},
            mining="batch_hard",
        )
        given = variables.params, variables.collections, same, jax.random.key(0)
        assert float(adaptive.loss(*given)[0]) == float(plain.loss(*given)[0])


def test_without_descriptions_adaptive_margins_say_how_to_get_them():
    method, batch = make("adaptive_triplet", "batch_hard"), batch_of()
    variables = method.init(jax.random.key(0), batch)
    bare = batch.replace(columns={"row": batch.columns["row"]})
    with pytest.raises(ValueError, match=r"--config.data.text.vectors=tfidf"):
        method.loss(variables.params, variables.collections, bare, jax.random.key(0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": "tripplet"}, r"loss is 'tripplet'; known: .*did you mean 'triplet'"),
        ({"mining": "batch_herd"}, r"mining is 'batch_herd' with loss 'triplet'; .*did you mean 'batch_hard'"),
        ({"loss": "circle", "loss_options": OPTIONS["circle"]}, r"'batch_hard' with loss 'circle'; expected ''"),
        ({"loss_options": {"margn": 0.2}}, r"loss_options has no option 'margn'; .*did you mean 'margin'"),
        ({"loss_options": {}}, r"loss_options lacks the option margin"),
        ({"mining_options": {"cutoff": 0.5}}, r"mining_options has no option 'cutoff'"),
        ({"mining": "batch_all", "mining_options": {"cutoff": 0.5}}, r"mining 'batch_all' has none"),
        ({"mining": "batch_all", "reducer": "worst", "reducer_options": {"share": 0.4}}, "needs single elements"),
        (
            {
                "mining": "distance_weighted",
                "mining_options": MINING_OPTIONS["distance_weighted"],
                "normalised": False,
            },
            "unit vectors",
        ),
        ({"reducer": "worst"}, r"reducer_options lacks the option share"),
        ({"distance": "euclid"}, r"distance is 'euclid'; known: .*euclidean"),
        ({"memory": 8, "mining": "given"}, r"memory is 8, but loss 'triplet' with mining 'given'"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changed, message):
    options = {"loss": "triplet", "loss_options": {"margin": 0.2}, "mining": "batch_hard", **changed}
    with pytest.raises(ValueError, match=message):
        embedding.make(Linear(), labels=LABELS, **options)


def test_every_loss_and_mining_is_covered_here():
    assert set(OPTIONS) == set(LOSSES)
    assert {mining for _, mining in EVERY} >= set(MININGS)


def test_memory_keeps_the_newest_photos_and_compares_with_them():
    method, first, second = make("triplet", "batch_hard", memory=32), batch_of(0), batch_of(1)
    alone = make("triplet", "batch_hard")
    variables = method.init(jax.random.key(0), first)
    loss = jax.jit(method.loss)
    value, aux = loss(variables.params, variables.collections, first, jax.random.key(0))
    without, _ = alone.loss(
        variables.params, {**variables.collections, "memory": {}}, first, jax.random.key(0)
    )
    np.testing.assert_allclose(value, without, rtol=1e-6)  # an empty memory changes nothing
    memory = aux.collections["memory"]
    np.testing.assert_array_equal(memory["row"], [*range(24), *[-1] * 8])
    value, aux = loss(variables.params, aux.collections, second, jax.random.key(0))
    # By hand: the second batch against itself and the first batch's embeddings, in NumPy.
    embed = lambda batch: np.asarray(method.outputs(variables, batch.image)["embedding"], np.float64)  # noqa: E731
    anchors, references = embed(second), np.concatenate([embed(second), embed(first)])
    label = np.asarray(second.label)
    labels, rows = np.concatenate([label, label]), np.tile(np.arange(24), 2)
    apart = np.linalg.norm(anchors[:, None] - references[None], axis=2)
    values = []
    for i in range(24):
        positive = [apart[i, j] for j in range(48) if labels[j] == label[i] and rows[j] != i]
        negative = [apart[i, j] for j in range(48) if labels[j] != label[i]]
        values.append(max(0.0, max(positive) - min(negative) + 0.3))
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)
    np.testing.assert_array_equal(aux.collections["memory"]["row"], [*range(24), *range(8)])


def test_frozen_parameters_have_no_gradient_and_the_others_keep_theirs():
    method, batch = make("proxy_anchor"), batch_of()
    variables = method.init(jax.random.key(0), batch)
    given = variables.params, variables.collections, batch, jax.random.key(0)
    whole = method.gradient(*given)[1]
    frozen = jax.tree.map(lambda _: False, variables.params)
    frozen["network"] = jax.tree.map(lambda _: True, variables.params["network"])
    part = method.gradient(*given, frozen=frozen)[1]
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(part["network"]))
    close(part["objective"], whole["objective"], rtol=1e-6)
    assert any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(whole["network"]))


def test_collapse_is_warned_of_and_spread_embeddings_are_not():
    method, batch = make("triplet", "batch_hard"), batch_of()
    variables = method.init(jax.random.key(0), batch)
    alike = batch.replace(image=jnp.ones_like(batch.image) + 1e-4 * batch.image)

    def warned(photos):
        metrics = method.loss(variables.params, variables.collections, photos, jax.random.key(0))[1].metrics
        return method.warning({name: float(mean.value()) for name, mean in metrics.items()}, 1)

    assert "the embeddings have collapsed" in warned(alike)
    assert warned(batch) is None


def test_logged_quantiles_are_those_of_the_distances():
    method, batch = make("triplet", "batch_hard"), batch_of()
    variables = method.init(jax.random.key(0), batch)
    metrics = method.loss(variables.params, variables.collections, batch, jax.random.key(0))[1].metrics
    points = np.asarray(method.outputs(variables, batch.image)["embedding"])
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(24, 1)]
    for name, share in (("distance_q05", 0.05), ("distance_q50", 0.5), ("distance_q95", 0.95)):
        # The nearest of 276 distances, give or take one where the place falls in the middle of two.
        place = share * (len(apart) - 1)
        low, high = np.sort(apart)[[int(np.floor(place)), int(np.ceil(place))]]
        assert low - 1e-4 <= float(metrics[name].value()) <= high + 1e-4
    np.testing.assert_allclose(metrics["embedding_norm"].value(), 1.0, rtol=1e-6)
    few = jax.tree.map(lambda each: each[:15], batch)
    few = method.loss(variables.params, variables.collections, few, jax.random.key(0))[1].metrics
    assert "embedding_dimensions" not in few  # so few photos cannot lie in many
    spread = np.linalg.eigvalsh(np.cov(points.T.astype(np.float64)))
    dimensions = spread.sum() ** 2 / (spread**2).sum()
    np.testing.assert_allclose(metrics["embedding_dimensions"].value(), dimensions, rtol=1e-4)


@pytest.mark.parametrize("directions", [1, 3, 6])
def test_dimensions_are_those_in_which_points_lie_apart(directions):
    """Points at both ends of each of so many axes, far from the origin, in a space of 20."""
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0][:directions]
    points = jnp.asarray(np.concatenate([axes, -axes]) + 5.0, jnp.float32)
    np.testing.assert_allclose(_batches.dimensions(points), directions, rtol=1e-3)
    assert float(_batches.dimensions(jnp.ones((4, 3)))) == 0.0


def test_active_is_the_share_of_triplets_with_a_loss():
    # Points on a line: labels at 0 and 1 with a spread of 0.1, one photo of label 1 strayed to 0.4.
    places = np.array([0.0, 0.1, 1.0, 0.4], np.float32)
    batch = Batch(jnp.asarray(places).reshape(4, 1, 1, 1), jnp.asarray([0, 0, 1, 1]), {"row": jnp.arange(4)})
    method = embedding.make(
        Identity(),
        labels=2,
        loss="triplet",
        loss_options={"margin": 0.05},
        mining="batch_all",
        normalised=False,
    )
    variables = method.init(jax.random.key(0), batch)
    loss, aux = method.loss(variables.params, variables.collections, batch, jax.random.key(0))
    # Gaps d_ap - d_an + 0.05 by hand; anchors 0, 0.1: .1-1, .1-.4, .1-.9, .1-.3; 1.0: .6-1, .6-.9; 0.4: .6-.4, .6-.3.
    np.testing.assert_allclose(aux.metrics["active"].value(), 2 / 8, rtol=1e-6)
    np.testing.assert_allclose(loss, (0.25 + 0.35) / 8, rtol=1e-5)


def test_queries_go_to_the_nearest_mean_of_their_embeddings():
    places = jnp.asarray([[0.0], [2.0], [10.0], [12.0]]), jnp.asarray([[4.0], [8.0]])
    sides = [Batch(side.reshape(1, -1, 1, 1, 1), jnp.zeros((1, side.shape[0]), jnp.int32)) for side in places]
    method = embedding.make(
        Identity(),
        labels=2,
        loss="triplet",
        loss_options={"margin": 0.1},
        mining="batch_hard",
        normalised=False,
    )
    variables = method.init(jax.random.key(0), jax.tree.map(lambda a: a[0], sides[0]))
    logits = method.predict(variables, Episode(*sides, way=2))
    np.testing.assert_allclose(logits, [[[-3.0, -7.0], [-7.0, -3.0]]], rtol=1e-5)


def test_a_classifier_is_cross_entropy_over_all_trained_labels():
    method, batch = classify.make(Linear(), labels=LABELS, smoothing=0.1), batch_of()
    variables = method.init(jax.random.key(0), batch)
    loss, aux = method.loss(variables.params, variables.collections, batch, jax.random.key(0))
    points = np.asarray(method.outputs(variables, batch.image)["embedding"], np.float64)
    layer = jax.tree.map(np.asarray, variables.params["objective"])
    logits = points @ layer["kernel"].T + layer["bias"]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    own = log_p[np.arange(24), np.asarray(batch.label)]
    np.testing.assert_allclose(loss, np.mean(-0.9 * own - 0.1 * log_p.mean(axis=1)), rtol=1e-5)
    hits = np.mean(logits.argmax(axis=1) == np.asarray(batch.label))
    np.testing.assert_allclose(aux.metrics["accuracy"].value(), hits, rtol=1e-6)


class Normalised(nn.Module):
    """A network with running statistics."""

    norm: str = "running"

    @nn.compact
    def __call__(self, images, *, statistics):
        flat = images.reshape(images.shape[0], -1)
        return nn.BatchNorm(use_running_average=statistics == "running", momentum=0.9)(flat), {}


def test_statistics_of_pretrained_weights_arrive_in_the_network():
    method, batch = dataclasses.replace(make("triplet", "batch_hard"), network=Normalised()), batch_of()
    variables = method.init(jax.random.key(0), batch)
    statistics = {"BatchNorm_0": {"mean": jnp.full(12, 5.0), "var": jnp.full(12, 4.0)}}
    weights = {"params": {"network": {}}, "batch_stats": {"network": statistics}}
    loaded = with_weights(variables, weights)
    images = batch.image
    expected = (np.asarray(images).reshape(24, -1) - 5) / np.sqrt(4 + 1e-5)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(method.outputs(loaded, images)["embedding"], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="no place for the ema of the pretrained weights"):
        with_weights(variables, {**weights, "ema": {}})
