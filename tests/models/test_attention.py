"""Semantic maps, the ways of using them, and gates over channels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import random_variables

from fsl_jax.models.attention import GatedHeads, SemanticMap, SemanticNetwork, foreground_from_border
from fsl_jax.models.conv4 import Conv4
from fsl_jax.models.heads import Embedder, Head
from fsl_jax.models.identity import Identity

FUSIONS = ["embed", "concatenate", "multiply", "mask_input", "none"]


def conv4():
    return Conv4(filters=4, reduction="stride", readout="mean", norm="running", formulation="lax")


def bright_square(side=32, background=0.0):
    photo = np.full((1, side, side, 3), background, np.float32)
    photo[:, 8:24, 8:24] += 1.0
    return photo


def test_on_a_plain_background_the_article_is_the_foreground():
    foreground = np.asarray(foreground_from_border(jnp.asarray(bright_square())))[0, :, :, 0]
    assert foreground[8:24, 8:24].min() > 0.99
    assert foreground[:8].max() < 0.01


def test_light_does_not_change_the_foreground():
    one, other = (foreground_from_border(jnp.asarray(scale * bright_square() + 3)) for scale in (1.0, 0.2))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_busy_frame_leaves_less_foreground():
    noisy = bright_square()
    noisy[:, :2] = np.random.default_rng(0).standard_normal((1, 2, 32, 3))
    plain, busy = (
        np.asarray(foreground_from_border(jnp.asarray(p)))[0, 15, 15, 0] for p in (bright_square(), noisy)
    )
    assert busy < plain


def test_a_photo_of_one_colour_has_no_foreground():
    foreground = foreground_from_border(jnp.full((2, 8, 8, 3), 0.3))
    np.testing.assert_allclose(foreground, 0, atol=1e-4)


@pytest.mark.parametrize("source", ["learned", "border", "given"])
def test_shares_of_a_place_sum_to_one(source):
    photos, mask = jax.random.normal(jax.random.key(0), (2, 32, 32, 3)), jnp.full((2, 32, 32, 1), 0.25)
    module = SemanticMap(source, 3)
    variables = module.init(jax.random.key(1), photos, mask)
    shares = module.apply(variables, photos, mask)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-5)
    assert shares.min() >= 0
    assert shares.shape[-1] == (3 if source == "learned" else 2)
    if source == "given":
        np.testing.assert_allclose(shares[..., 0], 0.75)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_embeds_photos_with_finite_gradients(fusion):
    network = SemanticNetwork(conv4(), fusion, "learned")
    photos = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = random_variables(network, photos)
    embedding, intermediates = network.apply(variables, photos, statistics="running")
    assert embedding.shape == (2, 4 + 64 * (fusion == "concatenate"))
    assert ("semantic" in intermediates) == (fusion != "none")

    def total(params):
        return network.apply({**variables, "params": params}, photos, statistics="running")[0].sum()

    gradient = jax.grad(total)(variables["params"])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    assert (
        set(gradient)
        == {
            "none": {"body"},
            "mask_input": {"body", "semantic"},
            "multiply": {"body", "semantic"},
            "concatenate": {"body", "semantic", "embedded"},
            "embed": {"body", "semantic", "embedded", "seen", "together", "added", "places"},
        }[fusion]
    )


def test_the_embedded_map_starts_as_the_body_itself():
    photos = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    network = SemanticNetwork(conv4(), "embed", "border")
    variables = network.init(jax.random.key(1), photos, statistics="running")
    body = {name: tree["body"] for name, tree in variables.items()}
    alone = conv4().apply(body, photos, statistics="running")[0]
    np.testing.assert_allclose(
        network.apply(variables, photos, statistics="running")[0], alone, rtol=1e-4, atol=1e-5
    )


def test_multiply_averages_the_foreground_alone():
    """The background may be anything where the mask is 0 and the body sees one pixel at a time."""

    class Pixels(nn.Module):
        norm: str = "layer"

        def __call__(self, images, *, statistics):
            return images.mean(axis=(1, 2)), {"map": images}

    mask = np.zeros((1, 8, 8, 1), np.float32)
    mask[:, :4] = 1
    photo = np.where(mask > 0, 2.0, 7.0) * np.ones((1, 1, 1, 3), np.float32)
    network = SemanticNetwork(Pixels(), "multiply", "given")
    given = jnp.asarray(np.concatenate([photo, mask], axis=-1), jnp.float32)
    np.testing.assert_allclose(network.apply({}, given, statistics="running")[0], 2.0, rtol=1e-5)
    masked = SemanticNetwork(Pixels(), "mask_input", "given")
    np.testing.assert_allclose(masked.apply({}, given, statistics="running")[0], 1.0, rtol=1e-5)


def test_a_mask_that_is_not_given_is_asked_for():
    network = SemanticNetwork(conv4(), "multiply", "given")
    with pytest.raises(ValueError, match=r"--config\.data\.channels=4"):
        network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), statistics="running")


def test_a_network_without_a_map_is_refused():
    for body in (Identity(), Embedder(conv4(), Head((4,), normalised=False))):
        network = SemanticNetwork(body, "multiply", "border")
        with pytest.raises(ValueError, match="fusion=none"):
            network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), statistics="running")


@pytest.mark.parametrize(("field", "value"), [("fusion", "blend"), ("source", "guess")])
def test_an_unknown_option_lists_the_known_ones(field, value):
    network = SemanticNetwork(conv4(), **{"fusion": "embed", "source": "border", field: value})
    with pytest.raises(ValueError, match=f"is '{value}'; known: "):
        network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), statistics="running")


def test_gates_against_numpy():
    heads = GatedHeads((0, 0, 1), squeeze=2)
    features = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    variables = random_variables(heads, jnp.asarray(features), statistics=None)
    p = jax.tree.map(lambda a: np.asarray(a, float), variables["params"])
    hidden = np.maximum(features @ p["squeeze"]["kernel"] + p["squeeze"]["bias"], 0)
    gates = 2 / (1 + np.exp(-(hidden @ p["gates"]["kernel"] + p["gates"]["bias"])))
    expected = np.stack(
        [
            (features * gates[:, 6 * group : 6 * group + 6]) @ p["kernel"][:, j] + p["bias"][j]
            for j, group in enumerate((0, 0, 1))
        ],
        axis=1,
    )
    got = heads.apply(variables, jnp.asarray(features))["attributes"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_gates_start_open_and_without_them_the_head_is_linear():
    features = jax.random.normal(jax.random.key(0), (3, 6))
    gated, plain = GatedHeads((0, 1, 1), squeeze=2), GatedHeads((0, 1, 1), squeeze=0)
    variables = gated.init(jax.random.key(1), features)
    linear = {"params": {name: variables["params"][name] for name in ("kernel", "bias")}}
    assert set(plain.init(jax.random.key(1), features)["params"]) == {"kernel", "bias"}
    np.testing.assert_allclose(
        gated.apply(variables, features)["attributes"], plain.apply(linear, features)["attributes"], rtol=1e-5
    )
