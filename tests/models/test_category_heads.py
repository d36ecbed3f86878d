"""The message block against NumPy, its number of parameters against the paper's, and its baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import random_variables

from fsl_jax.models.category_heads import HEADS, FlatHeads, IndependentHeads, StructuredHeads
from fsl_jax.models.resnet import ResNet


def parameters(module, *inputs, **call):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **call))


def size(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_as_many_parameters_as_published():
    """46,915,690 with 234 outputs on ResNet-50, whose Keras version has biases before each normalisation."""
    body = ResNet(depth=50, norm="running")
    of_body = parameters(body, jnp.zeros((1, 64, 64, 3)), statistics="running")
    biases = sum(
        leaf.shape[-1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(of_body["params"])
        if path[-1].key == "kernel"
    )
    of_heads = parameters(StructuredHeads((21, 79), 134, 1024, 0.3), jnp.zeros((1, 2048)))
    assert biases == 26_560
    assert size(of_body) + biases == 23_587_712
    assert size(of_heads) == 3 * (2048 + 1) * 1024 + 16 * (1024 + 1) * 1024 + (1024 + 1) * 234
    assert size(of_body) + biases + size(of_heads) == 46_915_690


def relu(values):
    return np.maximum(values, 0)


def dense(params, name, inputs):
    return relu(inputs @ params[name]["kernel"] + params[name]["bias"])


def logits(params, name, inputs):
    return inputs @ params[f"{name}_logits"]["kernel"] + params[f"{name}_logits"]["bias"]


def test_two_levels_and_attributes_pass_messages_as_in_the_paper():
    heads = StructuredHeads((3, 5), 4, 7, 0.3)
    features = np.random.default_rng(0).standard_normal((6, 10))
    params = random_variables(heads, jnp.asarray(features, jnp.float32), statistics=None)["params"]
    p = jax.tree.map(lambda a: np.asarray(a, float), params)
    category, subcategory, attributes = (
        dense(p, f"{name}_enter", features) for name in ("level1", "level2", "attributes")
    )
    # Down: C_b from C; S_b from S and C_b; A_b from A and C_b.
    c_down = dense(p, "level1_down", category)
    s_down = dense(p, "level2_down", subcategory) + dense(p, "level2_down_from_level1", c_down)
    a_down = dense(p, "attributes_down", attributes) + dense(p, "attributes_down_from_level1", c_down)
    # Up: A_g from A; S_g from S; C_g from C, S_g and A_g.
    a_up = dense(p, "attributes_up", attributes)
    s_up = dense(p, "level2_up", subcategory)
    c_up = dense(p, "level1_up", category)
    c_up = c_up + dense(p, "level1_up_from_level2", s_up) + dense(p, "level1_up_from_attributes", a_up)
    expected = {
        name: logits(p, name, dense(p, f"{name}_down_out", down) + dense(p, f"{name}_up_out", up))
        for name, down, up in (
            ("level1", c_down, c_up),
            ("level2", s_down, s_up),
            ("attributes", a_down, a_up),
        )
    }
    got = heads.apply({"params": params}, jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(got["levels"][0], expected["level1"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["levels"][1], expected["level2"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["attributes"], expected["attributes"], rtol=1e-4, atol=1e-4)


def layers(sizes, attributes):
    return set(parameters(StructuredHeads(sizes, attributes, 4, 0.0), jnp.zeros((1, 8)))["params"])


def test_any_number_of_levels():
    assert len(layers((3, 5), 4)) == 3 + 16 + 3
    three = layers((2, 3, 5), 0)
    assert {"level2_down_from_level1", "level3_down_from_level2"} <= three
    assert {"level1_up_from_level2", "level2_up_from_level3"} <= three
    assert not any("from" in name for name in layers((3,), 0))
    # The finest level and the attributes exchange no message.
    assert not any("level2_from" in name and "attributes" in name for name in layers((3, 5), 4))
    assert {name for name in layers((3, 5), 4) if "from" in name} == {
        "level2_down_from_level1", "attributes_down_from_level1", "level1_up_from_level2", "level1_up_from_attributes",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["structured", "independent", "flat"])
def test_dropout_acts_in_training_alone(name):
    options = {"parents": ((), (0, 0, 1))} if name == "flat" else {}
    heads = HEADS[name]((2, 3), 2, 16, 0.5, **options)
    features = jax.random.normal(jax.random.key(1), (4, 8))
    variables = heads.init(jax.random.key(0), features)
    fixed = heads.apply(variables, features)
    assert set(fixed) == {"levels", "attributes"}
    again = heads.apply(variables, features)
    dropped = heads.apply(variables, features, rngs={"dropout": jax.random.key(2)})
    for one, same, other in zip(*map(jax.tree.leaves, (fixed, again, dropped)), strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, other)


def test_without_messages_levels_do_not_touch_each_other():
    heads = IndependentHeads((2, 3), 2, 8, 0.0)
    features = jax.random.normal(jax.random.key(1), (4, 8))
    variables = random_variables(heads, features, statistics=None)

    def of_level(params):
        return heads.apply({"params": params}, features)["levels"][1].sum()

    gradient = jax.grad(of_level)(variables["params"])
    touched = {
        name for name, leaves in gradient.items() if any(np.any(leaf) for leaf in jax.tree.leaves(leaves))
    }
    assert touched == {"level2_enter", "level2_out", "level2_logits"}


def test_flat_categories_have_the_probabilities_of_what_lies_under_them():
    parents = ((), (0, 0), (0, 1, 1, 0))
    heads = FlatHeads((1, 2, 4), 0, 8, 0.0, parents)
    features = jax.random.normal(jax.random.key(1), (5, 8))
    coarse, middle, fine = (
        np.exp(level) / np.exp(level).sum(axis=1, keepdims=True)
        for level in map(
            np.asarray, heads.apply(random_variables(heads, features, statistics=None), features)["levels"]
        )
    )
    np.testing.assert_allclose(middle[:, 0], fine[:, [0, 3]].sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(middle[:, 1], fine[:, [1, 2]].sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(coarse, 1, rtol=1e-6)


def test_a_category_with_nothing_under_it_is_never_taken():
    heads = FlatHeads((3, 2), 0, 8, 0.0, ((), (0, -1)))
    features = jax.random.normal(jax.random.key(1), (5, 8))
    variables = random_variables(heads, features, statistics=None)
    levels = heads.apply(variables, features)["levels"]
    assert (np.asarray(levels[0]).argmax(axis=1) == 0).all()
    gradient = jax.grad(lambda v: sum(jnp.sum(nn) for nn in heads.apply(v, features)["levels"]))(variables)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
