"""Conv-4 in each paper's variant: exact parameter counts and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.models.conv4 import Conv4
from fsl_jax.models.heads import Classifier

PROTONET = {"filters": 64, "reduction": "max_pool", "readout": "flatten", "norm": "batch"}
FINN_OMNIGLOT = {
    "filters": 64,
    "reduction": "stride",
    "readout": "mean",
    "norm": "batch",
    "norm_scale": False,
}
FINN_MINI = {
    "filters": 32,
    "reduction": "max_pool",
    "readout": "flatten",
    "norm": "batch",
    "norm_scale": False,
}
LUXURY = {
    "filters": 32,
    "reduction": "max_pool",
    "readout": "flatten",
    "norm": "batch",
    "padding": "VALID",
    "norm_after_relu": True,
    "last_pool_stride": 1,
}


def initialised(model, side, channels):
    images = jnp.ones((2, side, side, channels))
    return model.init(jax.random.key(0), images, statistics="batch"), images


def count(variables):
    return sum(np.size(p) for p in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("options", "labels", "side", "channels", "parameters"),
    [
        (PROTONET, None, 28, 1, 111_936),  # Snell et al., released code
        (LUXURY, 5, 84, 3, 32_901),
        (LUXURY, 25, 84, 3, 48_921),
    ],
)
def test_published_parameter_counts(options, labels, side, channels, parameters):
    model = Conv4(**options) if labels is None else Classifier(Conv4(**options), labels)
    assert count(initialised(model, side, channels)[0]) == parameters


@pytest.mark.parametrize(
    ("options", "side", "channels", "dimensions"),
    [
        (PROTONET, 28, 1, 64),
        (PROTONET, 84, 3, 1600),
        (FINN_OMNIGLOT, 28, 1, 64),
        (FINN_MINI, 84, 3, 800),
        (LUXURY, 84, 3, 800),
    ],
)
def test_published_embedding_sizes(options, side, channels, dimensions):
    variables, images = initialised(Conv4(**options), side, channels)
    embedding, seen = Conv4(**options).apply(variables, images, statistics="batch")
    assert embedding.shape == (2, dimensions)
    assert set(seen) == {"block1", "block2", "block3", "block4"}


def test_a_norm_that_only_centres_has_no_scale():
    params = initialised(Conv4(**FINN_OMNIGLOT), 28, 1)[0]["params"]
    assert set(params["norm1"]) == {"bias"}


@pytest.mark.parametrize("norm", ["running", "group", "layer"])
def test_without_batch_statistics_a_photo_is_embedded_by_itself(norm):
    model = Conv4(**{**PROTONET, "norm": norm})
    variables, _ = initialised(model, 28, 1)
    images = jax.random.normal(jax.random.key(1), (4, 28, 28, 1))
    together = model.apply(variables, images, statistics="running")[0]
    alone = model.apply(variables, images[:1], statistics="running")[0]
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_running_statistics_move_towards_those_of_the_batch():
    model = Conv4(**PROTONET)
    variables, _ = initialised(model, 28, 1)
    images = jax.random.normal(jax.random.key(1), (4, 28, 28, 1))
    _, moved = model.apply(variables, images, statistics="batch", mutable=["batch_stats"])
    kernel, bias = (variables["params"]["conv1"][name] for name in ("kernel", "bias"))
    maps = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = 0.1 * np.asarray(maps + bias.reshape(1, 1, 1, -1)).mean((0, 1, 2))
    np.testing.assert_allclose(moved["batch_stats"]["norm1"]["mean"], expected, atol=1e-5)


def test_bfloat16_computes_narrow_and_keeps_parameters_wide():
    model = Conv4(**PROTONET, dtype="bfloat16")
    variables, images = initialised(model, 28, 1)
    embedding, seen = model.apply(variables, images, statistics="batch")
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert seen["block1"].dtype == jnp.bfloat16
    assert embedding.dtype == jnp.float32


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("norm", "bach", "norm mode is 'bach'; known: batch, running, group, layer"),
        ("reduction", "strides", "reduction is 'strides'; known: stride, max_pool"),
        ("readout", "avg", "readout is 'avg'; known: flatten, mean"),
        ("padding", "SAM", "padding is 'SAM'; known: SAME, VALID"),
        ("formulation", "fft", "formulation is 'fft'; known: auto, lax, patches"),
    ],
)
def test_an_unknown_value_is_named(option, value, message):
    with pytest.raises(ValueError, match=message):
        initialised(Conv4(**{**PROTONET, option: value}), 28, 1)


@pytest.mark.parametrize("scale", [True, False])
def test_what_is_taken_together_on_a_cpu_equals_one_layer_after_the_other(scale):
    options = {
        "filters": 16,
        "reduction": "max_pool",
        "readout": "flatten",
        "norm": "running",
        "norm_scale": scale,
    }
    images = jax.random.normal(jax.random.key(0), (4, 20, 20, 1))
    together, plain = (Conv4(**options, formulation=formulation) for formulation in ("auto", "lax"))
    variables = plain.init(jax.random.key(1), images, statistics="batch")
    assert jax.tree.structure(
        together.init(jax.random.key(1), images, statistics="batch")
    ) == jax.tree.structure(variables)
    moved = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), variables["params"]
    )

    def run(model):
        def loss(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            (embedding, seen), new = model.apply(given, images, statistics="batch", mutable=["batch_stats"])
            return jnp.sum(jnp.sin(embedding)), (embedding, seen, new)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(moved)

    for got, expected in zip(*(jax.tree.leaves(run(model)) for model in (together, plain)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)
