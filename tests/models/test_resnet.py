"""ResNets: published counts and shapes, frozen statistics, narrow arithmetic. Values are compared in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_variables import random_variables

from fsl_jax.models.heads import Classifier
from fsl_jax.models.resnet import ResNet
from fsl_jax.models.resnet12 import ResNet12


def shapes(model, side=32):
    images = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, statistics="running"))


def count(model):
    return sum(np.prod(p.shape, dtype=int) for p in jax.tree.leaves(shapes(model)["params"]))


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameter_counts_are_those_of_torchvision(depth, parameters):
    assert count(Classifier(ResNet(depth, norm="running"), 1000)) == parameters


def test_resnet12_has_the_channels_of_feat():
    assert count(ResNet12(norm="batch")) == 12_424_320


def test_squeeze_and_excitation_has_timms_count():
    assert count(Classifier(ResNet(50, norm="running", squeeze=16), 1000)) == 28_088_024  # timm's seresnet50


def test_an_unknown_depth_is_named():
    with pytest.raises(ValueError, match="depth is 20; expected one of 18, 34, 50, 101, 152"):
        shapes(ResNet(20, norm="running"))


@pytest.fixture(scope="module")
def small():
    """ResNet-12 and its variables, with random statistics."""
    model = ResNet12(norm="running")
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    return random_variables(model, images), images


def gathered(model, variables, images):
    @jax.jit
    def apply(variables):
        return model.apply(variables, images, statistics="batch", mutable=["batch_stats"])

    (embedding, _), moved = apply(variables)
    return embedding, moved


def largest_change(old, new):
    return max(
        float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    )


def test_frozen_norms_keep_their_statistics_in_training_and_use_them(small):
    variables, images = small
    model = ResNet12(norm="running", frozen_norm=True)
    embedding, moved = gathered(model, variables, images)
    assert largest_change(variables["batch_stats"], moved["batch_stats"]) == 0
    expected, _ = jax.jit(lambda v: model.apply(v, images, statistics="running"))(variables)
    np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-5)


def test_norms_that_are_not_frozen_move_their_statistics(small):
    variables, images = small
    _, moved = gathered(ResNet12(norm="running"), variables, images)
    assert largest_change(variables["batch_stats"], moved["batch_stats"]) > 1e-3


def test_bfloat16_computes_narrow_and_keeps_parameters_and_statistics_wide(small):
    variables, images = small
    model = ResNet12(norm="running", dtype="bfloat16")
    (_, seen), moved = jax.eval_shape(
        lambda v: model.apply(v, images, statistics="batch", mutable=["batch_stats"]), variables
    )
    assert {p.dtype for p in jax.tree.leaves([variables, moved])} == {jnp.dtype("float32")}
    assert seen["block1"].dtype == jnp.bfloat16
    embedding, _ = jax.eval_shape(lambda v: model.apply(v, images, statistics="running"), variables)
    assert embedding.dtype == jnp.float32


def test_resnet12_halves_the_side_four_times(small):
    variables, images = small
    _, seen = jax.eval_shape(
        lambda v: ResNet12(norm="running").apply(v, images, statistics="running"), variables
    )
    expected = {"block1": (8, 64), "block2": (4, 160), "block3": (2, 320), "block4": (1, 640)}
    assert {name: maps.shape[2:] for name, maps in seen.items()} == expected


def test_resnet_blocks_are_named_by_stage_and_have_the_published_sides():
    model = ResNet(50, norm="running")
    images = jnp.zeros((1, 224, 224, 3))
    (embedding, seen), _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, statistics="running")
    )
    last = {name: seen[name].shape for name in ("stem", "stage1_block3", "stage2_block4", "stage4_block3")}
    assert last == {
        "stem": (1, 56, 56, 64),
        "stage1_block3": (1, 56, 56, 256),
        "stage2_block4": (1, 28, 28, 512),
        "stage4_block3": (1, 7, 7, 2048),
    }
    assert embedding.shape == (1, 2048)


def test_the_stem_pads_with_nothing_that_could_win():
    """PyTorch's padding is minus infinity, so a stem of negative maps is not lifted to 0 at the edges."""
    from fsl_jax.models.resnet import _stem_pool

    maps = -1.0 - jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(_stem_pool(maps)[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_pooling_reads_the_last_map(small):
    variables, images = small
    model = ResNet12(norm="running", pooling="max")
    embedding, seen = jax.jit(lambda v: model.apply(v, images, statistics="running"))(variables)
    np.testing.assert_allclose(embedding, np.asarray(seen["block4"]).max((1, 2)), rtol=1e-6)
    assert "pool" in shapes(ResNet(18, norm="running", pooling="gem"))["params"]
