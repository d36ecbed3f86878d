"""Pooling, heads and embedders: hand-made numbers, and the parameter counts of the published heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_variables import random_variables

from fsl_jax.models.conv4 import Conv4
from fsl_jax.models.heads import Embedder, GlobalPool, Head, ProjectionHead
from fsl_jax.models.resnet import ResNet
from fsl_jax.ops.norm import l2_normalise

MAPS = jnp.array([[[[1.0, 2.0], [3.0, 0.0]], [[0.0, 4.0], [4.0, 2.0]]]])


def pooled(pooling, maps=MAPS, **params):
    module = GlobalPool(pooling)
    variables = module.init(jax.random.key(0), maps)
    return module.apply({"params": {**variables.get("params", {}), **params}}, maps)


def count(module, *arguments, **options):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **options))
    return sum(np.prod(p.shape, dtype=int) for p in jax.tree.leaves(shapes["params"]))


def test_average_and_max_of_a_map():
    np.testing.assert_allclose(pooled("average"), [[2.0, 2.0]])
    np.testing.assert_allclose(pooled("max"), [[4.0, 4.0]])


def test_generalised_mean_is_the_published_formula():
    expected = [[((1 + 27 + 0 + 64) / 4) ** (1 / 3), ((8 + 0 + 64 + 8) / 4) ** (1 / 3)]]
    np.testing.assert_allclose(pooled("gem"), expected, rtol=1e-5)


@pytest.mark.parametrize(("power", "limit"), [(1.0, "average"), (60.0, "max")])
def test_generalised_mean_goes_from_average_to_maximum(power, limit):
    np.testing.assert_allclose(pooled("gem", power=jnp.array(power)), pooled(limit), rtol=0.03)


def test_generalised_mean_has_finite_gradients_at_zero():
    zeros = jnp.zeros((1, 2, 2, 3))
    gradients = jax.grad(lambda maps, power: jnp.sum(pooled("gem", maps, power=power)), (0, 1))(
        zeros, jnp.array(3.0)
    )
    assert all(np.isfinite(g).all() for g in gradients)


def test_pooling_of_bfloat16_is_float32():
    assert pooled("average", MAPS.astype(jnp.bfloat16)).dtype == jnp.float32


def test_an_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="pooling is 'mean'; known: average, max, gem"):
        pooled("mean")


def test_rows_get_length_one_and_zero_rows_stay_with_finite_gradient():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalise(rows), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda rows: jnp.sum(l2_normalise(rows)))(rows)).all()


def test_head_of_the_siamese_network_has_the_published_count():
    head = Head(sizes=(512, 256), normalised=False, hidden="leaky_relu", output="sigmoid")
    network = Embedder(ResNet(18, norm="running"), head)
    assert count(network, jnp.zeros((1, 32, 32, 3)), statistics="running") == 11_570_496


def test_head_of_the_prototypical_network_has_the_published_count():
    head = Head(sizes=(1024, 512), normalised=False, output="sigmoid")
    assert count(head, jnp.zeros((1, 2048))) == 2_622_976


def test_a_head_is_its_layers_and_activations():
    head = Head(sizes=(3, 2), normalised=False, hidden="leaky_relu", output="sigmoid")
    embedding = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    variables = head.init(jax.random.key(0), embedding)
    first, second = (jax.tree.map(np.asarray, variables["params"][f"linear{i}"]) for i in (1, 2))
    hidden = np.asarray(embedding) @ first["kernel"] + first["bias"]
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    expected = 1 / (1 + np.exp(-(hidden @ second["kernel"] + second["bias"])))
    np.testing.assert_allclose(head.apply(variables, embedding), expected, rtol=1e-5)


def test_a_normalised_head_gives_rows_of_length_one():
    head = Head(sizes=(4,), normalised=True)
    embedding = jnp.arange(6.0).reshape(2, 3)
    result = head.apply(head.init(jax.random.key(0), embedding), embedding)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, rtol=1e-6)


def test_dropout_acts_only_where_a_key_is_given():
    head = Head(sizes=(8,), normalised=False, dropout=0.5)
    embedding = jnp.ones((2, 64))
    variables = head.init(jax.random.key(0), embedding)
    plain = head.apply(variables, embedding)
    np.testing.assert_array_equal(plain, head.apply(variables, embedding))
    dropped = head.apply(variables, embedding, rngs={"dropout": jax.random.key(1)})
    assert np.abs(dropped - plain).max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (), "normalised": False}, "sizes is empty"),
        ({"sizes": (2,), "normalised": False, "output": "tanh"}, "activation is 'tanh'; known: none, relu"),
    ],
)
def test_wrong_heads_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Head(**options).init(jax.random.key(0), jnp.ones((1, 3)))


def test_an_embedder_has_two_groups_of_parameters_and_its_bodys_norm_mode():
    body = Conv4(filters=4, reduction="stride", readout="mean", norm="layer")
    network = Embedder(body, Head(sizes=(5,), normalised=True))
    images = jnp.ones((2, 16, 16, 1))
    variables = random_variables(network, images)
    embedding, seen = jax.jit(lambda v: network.apply(v, images, statistics="running"))(variables)
    assert set(variables["params"]) == {"body", "head"}
    assert embedding.shape == (2, 5)
    assert seen["body"].shape == (2, 4)
    assert network.norm == "layer"


def test_the_head_of_self_distillation_has_the_published_parameters():
    embedding = jnp.zeros((1, 384))
    mlp = 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256
    assert count(ProjectionHead(2048, 256, 65_536), embedding) == mlp + 65_536 * 256
    assert count(ProjectionHead(2048, 256, 65_536, learned_lengths=True), embedding) == mlp + 65_536 * 257


def test_prototypes_are_compared_by_the_cosine_and_stretched_by_their_lengths():
    embedding = jax.random.normal(jax.random.key(0), (5, 6))
    head = ProjectionHead(7, 4, 9, learned_lengths=True)
    zeros = jax.eval_shape(head.init, jax.random.key(1), embedding)["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda p: random.standard_normal(p.shape).astype(np.float32), zeros)
    got = head.apply({"params": params}, embedding)
    hidden = np.asarray(embedding)
    for name in ("linear1", "linear2", "linear3"):
        hidden = hidden @ params[name]["kernel"] + params[name]["bias"]
        hidden = hidden if name == "linear3" else np.asarray(jax.nn.gelu(hidden, approximate=False))
    rows = np.asarray(params["prototypes"])
    cosine = hidden @ rows.T / np.linalg.norm(hidden, axis=1)[:, None] / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(got, cosine * params["lengths"], rtol=1e-4, atol=1e-5)
    assert np.abs(ProjectionHead(7, 4, 9).apply({"params": params}, embedding)).max() <= 1 + 1e-5
