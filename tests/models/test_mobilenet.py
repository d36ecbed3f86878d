"""MobileNet-v1: published count and sides, and a layer against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_variables import random_variables

from fsl_jax.models.heads import Classifier
from fsl_jax.models.mobilenet import MobileNet


def test_parameter_count_is_the_published_one():
    model = Classifier(MobileNet(norm="running"), 1000)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, statistics="running"))
    assert sum(np.prod(p.shape, dtype=int) for p in jax.tree.leaves(shapes["params"])) == 4_231_976


def test_sides_and_channels_are_those_of_the_papers_table():
    images = jnp.zeros((1, 224, 224, 3))
    (embedding, seen), _ = jax.eval_shape(
        lambda: MobileNet(norm="running").init_with_output(jax.random.key(0), images, statistics="running")
    )
    got = {
        name: seen[name].shape[2:] for name in ("stem", "block1", "block3", "block5", "block11", "block13")
    }
    assert got == {
        "stem": (112, 32), "block1": (112, 64), "block3": (56, 128), "block5": (28, 256), "block11": (14, 512),
        "block13": (7, 1024),
    }  # fmt: skip
    assert embedding.shape == (1, 1024)


@pytest.fixture(scope="module")
def variables_and_images():
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    return random_variables(MobileNet(norm="running"), images), images


@pytest.fixture(scope="module")
def wide(variables_and_images):
    variables, images = variables_and_images
    return jax.jit(lambda v: MobileNet(norm="running").apply(v, images, statistics="running"))(variables)


def test_one_block_is_depthwise_then_pointwise(variables_and_images, wide):
    (variables, _), (_, seen) = variables_and_images, wide
    assert all(maps.min() >= 0 and maps.max() <= 6 for maps in map(np.asarray, seen.values()))
    params, statistics = (
        jax.tree.map(np.asarray, variables[name]["block1"]) for name in ("params", "batch_stats")
    )
    maps = np.pad(np.asarray(seen["stem"])[0], ((1, 1), (1, 1), (0, 0)))

    def normalised_relu6(values, part):
        norm, moments = params[part]["norm"], statistics[part]["norm"]
        centred = (values - moments["mean"]) / np.sqrt(moments["var"] + 1e-3)
        return np.clip(centred * norm["scale"] + norm["bias"], 0, 6)

    for row, column in ((0, 0), (7, 9), (15, 15)):
        window = maps[row : row + 3, column : column + 3]
        middle = normalised_relu6(np.sum(window * params["depthwise"]["kernel"], (0, 1)), "depthwise")
        expected = normalised_relu6(middle @ params["pointwise"]["conv"]["kernel"][0, 0], "pointwise")
        np.testing.assert_allclose(seen["block1"][0, row, column], expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_nearly_the_same_and_keeps_parameters_wide(variables_and_images, wide):
    variables, images = variables_and_images
    model = MobileNet(norm="running", dtype="bfloat16")
    narrow, seen = jax.jit(lambda v: model.apply(v, images, statistics="running"))(variables)
    assert seen["block13"].dtype == jnp.bfloat16
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide[0], atol=0.05 * float(jnp.abs(wide[0]).max()))
