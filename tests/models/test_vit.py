"""Vision transformers: published counts, attention, positions. Values are compared in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_variables import random_variables

from fsl_jax.models.positions import bicubic_weights, resize_positions
from fsl_jax.models.vit import Block, ViT, attention_of


def count(model, side):
    images = jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, statistics="running"))
    return sum(np.prod(p.shape, dtype=int) for p in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        # DeiT-Ti/16 counts 5,717,416, with a classifier of 1,000 labels.
        ({"size": "tiny", "patch": 16, "positions": 14}, 5_717_416 - 193_000),
        ({"size": "small", "patch": 16, "positions": 14}, 21_665_664),  # DINO ViT-S/16
        ({"size": "base", "patch": 16, "positions": 14}, 85_798_656),  # DINO ViT-B/16
        # DINOv2 counts 384 and 768 more: the token that stands for a masked patch in training.
        ({"size": "small", "patch": 14, "positions": 37, "layer_scale": True}, 22_056_576 - 384),
        ({"size": "base", "patch": 14, "positions": 37, "layer_scale": True}, 86_580_480 - 768),
        (
            {"size": "small", "patch": 14, "positions": 37, "layer_scale": True, "registers": 4},
            22_058_112 - 384,
        ),
    ],
)
def test_parameter_counts_are_the_published_ones(options, parameters):
    assert count(ViT(**options), side=options["patch"] * 2) == parameters


@pytest.fixture(scope="module")
def small():
    model = ViT("small", patch=16, positions=3, registers=2)
    images = jax.random.normal(jax.random.key(1), (2, 32, 48, 3))
    variables = random_variables(model, images)
    return model, variables, images


@pytest.fixture(scope="module")
def seen(small):
    model, variables, images = small
    return jax.jit(lambda v, images: model.apply(v, images, statistics="running"))(variables, images)


def test_attention_maps_come_out_and_their_rows_sum_to_one(seen):
    _, intermediates = seen
    tokens = 1 + 2 + 2 * 3
    assert intermediates["attention12"].shape == (2, 6, tokens, tokens)
    np.testing.assert_allclose(intermediates["attention12"].sum(-1), 1, rtol=1e-5)
    assert intermediates["tokens"].shape == (2, tokens, 384)


def test_the_embedding_is_the_first_token(seen):
    embedding, intermediates = seen
    np.testing.assert_array_equal(embedding, intermediates["tokens"][:, 0])


def test_the_patches_mean_can_follow_the_first_token(small, seen):
    model, variables, images = small
    wide, _ = model.clone(pooling="cls_and_mean").apply(variables, images, statistics="running")
    first, patches = seen[1]["tokens"][:, 0], np.asarray(seen[1]["tokens"][:, 3:])
    np.testing.assert_allclose(wide, np.hstack([first, patches.mean(axis=1)]), rtol=1e-4, atol=1e-5)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling is 'mean'; expected one of cls, cls_and_mean"):
        ViT("nano", patch=4, positions=2, pooling="mean").init(
            jax.random.key(0), jnp.zeros((1, 8, 8, 3)), statistics="running"
        )


def test_without_what_blocks_add_a_changed_patch_changes_its_own_token_alone(small):
    model, variables, images = small
    params = variables["params"]
    silent = {
        n: jax.tree.map(jnp.zeros_like, part) if n.startswith("block") else part for n, part in params.items()
    }
    tokens = jax.jit(
        lambda images: model.apply({"params": silent}, images, statistics="running")[1]["block12"]
    )
    changed = images.at[:, 16:32, 32:48].add(1.0)  # second row, third column: the last patch of 6
    difference = np.abs(np.asarray(tokens(changed) - tokens(images))).max((0, 2))
    assert np.flatnonzero(difference).tolist() == [1 + 2 + 5]


def test_bfloat16_computes_narrow_and_keeps_parameters_wide(small):
    _, variables, images = small
    model = ViT("small", patch=16, positions=3, registers=2, dtype="bfloat16")
    embedding, intermediates = jax.eval_shape(
        lambda v: model.apply(v, images, statistics="running"), variables
    )
    assert intermediates["block12"].dtype == jnp.bfloat16
    assert intermediates["attention1"].dtype == jnp.float32
    assert embedding.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "side", "message"),
    [
        (
            {"size": "huge", "patch": 16, "positions": 14},
            32,
            "size is 'huge'; expected one of nano, tiny, small, base",
        ),
        (
            {"size": "small", "patch": 14, "positions": 37},
            32,
            "photos of 32 x 32 pixels .* take a multiple of 14",
        ),
    ],
)
def test_wrong_sizes_are_refused(options, side, message):
    with pytest.raises(ValueError, match=message):
        count(ViT(**options), side)


def test_positions_on_their_own_grid_are_untouched():
    positions = jnp.arange(18.0).reshape(9, 2)
    assert resize_positions(positions, rows=3, columns=3, antialias=False) is positions


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("old", "new"), [(14, 4), (4, 9), (5, 1), (1, 3)])
def test_weights_of_each_new_place_sum_to_one(old, new, antialias):
    np.testing.assert_allclose(bicubic_weights(old, new, antialias=antialias).sum(1), 1, rtol=1e-12)


def test_bicubic_weights_between_four_places_are_those_of_keys():
    """At distances 1.5, 0.5, 0.5, 1.5 the kernel of slope a gives a / 8 and 1 / 2 - a / 8."""
    row = bicubic_weights(8, 4, antialias=False)[1]
    np.testing.assert_allclose(row[1:5], [-0.09375, 0.59375, 0.59375, -0.09375])


def test_antialiased_weights_are_those_of_pillow():
    image = pytest.importorskip("PIL.Image")
    values = np.random.default_rng(0).standard_normal((1, 37)).astype(np.float32)
    resized = np.asarray(image.fromarray(values).resize((16, 1), image.Resampling.BICUBIC))
    np.testing.assert_allclose(values @ bicubic_weights(37, 16, antialias=True).T, resized, atol=1e-5)


def test_rows_and_columns_are_not_mixed_up():
    grid = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 4, 1)).reshape(16, 1)  # the row's number
    resized = resize_positions(grid, rows=8, columns=2, antialias=False).reshape(8, 2)
    np.testing.assert_allclose(resized[:, 0], resized[:, 1], rtol=1e-6)
    assert np.all(np.diff(resized[:, 0]) > 0)


def test_a_dropped_path_leaves_an_addition_out_of_some_photos_and_scales_it_for_others():
    tokens = jax.random.normal(jax.random.key(0), (64, 5, 12))
    whole = Block(3, False, jnp.float32)
    variables = whole.init(jax.random.key(1), tokens)
    # Of the second addition nothing is left, so that only the first one counts.
    last = jax.tree.map(jnp.zeros_like, variables["params"]["linear2"])
    variables = {"params": {**variables["params"], "linear2": last}}
    added = whole.apply(variables, tokens)[0] - tokens
    some = Block(3, False, jnp.float32, drop_path=0.25)
    np.testing.assert_allclose(some.apply(variables, tokens)[0] - tokens, added, atol=1e-6)
    kept = some.apply(variables, tokens, rngs={"dropout": jax.random.key(2)})[0] - tokens
    there = np.abs(kept).max(axis=(1, 2)) > 1e-6
    assert 0.55 < there.mean() < 0.95
    np.testing.assert_allclose(kept[there], added[there] / 0.75, atol=1e-5)
    assert not np.any(kept[~there])


def test_paths_are_dropped_more_and_more_often_from_the_second_block_on():
    model = ViT("nano", patch=4, positions=2, drop_path=0.5)
    images = jax.random.normal(jax.random.key(1), (200, 8, 8, 3))
    variables = model.init(jax.random.key(0), images[:1], statistics="running")
    whole = model.apply(variables, images, statistics="running")[1]
    some = model.apply(variables, images, statistics="running", rngs={"dropout": jax.random.key(2)})[1]
    np.testing.assert_allclose(some["block1"], whole["block1"], atol=1e-5)

    def both_left_out(i):
        return np.mean(np.abs(some[f"block{i}"] - some[f"block{i - 1}"]).max(axis=(1, 2)) < 1e-6)

    np.testing.assert_allclose([both_left_out(2), both_left_out(6)], [0.1**2, 0.5**2], atol=0.09)


@pytest.mark.parametrize("registers", [0, 3])
def test_where_the_embedding_looks_is_the_first_tokens_row_of_the_last_block(registers):
    attention = np.random.default_rng(0).random((2, 3, 17 + registers, 17 + registers))
    got = attention_of({"attention9": attention * 0, "attention10": attention, "block10": attention})
    assert got.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(got[1, 2, 0, 3], attention[1, 2, 0, 1 + registers + 3])
    np.testing.assert_array_equal(got[1, 2, 3, 3], attention[1, 2, 0, -1])
    assert attention_of({"block1": attention}) is None
