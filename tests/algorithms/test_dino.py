"""DINO as an algorithm: teacher, schedules, frozen prototypes, collapse, one result on 1 and 8 devices."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import table_of_counts

from fsl_jax.algorithms import dino
from fsl_jax.building import with_weights
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.multicrop import MultiCrop, plain_ground
from fsl_jax.data.resident import ResidentReader
from fsl_jax.losses import dino as losses_dino
from fsl_jax.losses import reduce
from fsl_jax.mesh import data_mesh, replicated
from fsl_jax.models.conv4 import Conv4
from fsl_jax.models.vit import ViT
from fsl_jax.sampling import uniform
from fsl_jax.sampling.keys import named_key
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import make_dispatch
from fsl_jax.types import Batch

OPTIONS = {
    "labels": 5,
    "updates": 10,
    "outputs": 32,
    "hidden": 16,
    "bottleneck": 8,
    "learned_lengths": True,
    "momentum": 0.9,
    "student_temperature": 0.1,
    "teacher_temperature": 0.07,
    "first_temperature": 0.04,
    "temperature_warmup": 4,
    "centre_momentum": 0.9,
    "frozen_steps": 2,
}
SPREAD = {**OPTIONS, "spread": 3, "koleo": 0.5}
CROPS = MultiCrop(
    size=8,
    local_size=4,
    local=3,
    share=(0.4, 1.0),
    local_share=(0.1, 0.4),
    flip=True,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grey=0.2,
    blur=(1.0, 0.1, 0.5),
    sigma=(0.1, 1.0),
    solarise=0.2,
)
PREPROCESS = Preprocess(size=8, channels=3, fit="pad", mean=(0.5,), std=(0.25,))


class Small(nn.Module):
    """A network on photos of any size, cheap to compile."""

    norm = "layer"

    @nn.compact
    def __call__(self, images, *, statistics):
        del statistics
        features = nn.relu(nn.Conv(8, (3, 3), name="conv")(images)).mean(axis=(1, 2))
        return nn.LayerNorm(name="norm")(features), {}


METHOD = dino.make(Small(), **OPTIONS)
SAMPLE = Batch(jnp.zeros((2, 8, 8, 3)), jnp.arange(2))
VARIABLES = METHOD.init(jax.random.key(0), SAMPLE)


@functools.cache
def batch_of(photos=8):
    images = np.random.default_rng(0).integers(0, 256, (photos, 8, 8, 3), dtype=np.uint8)
    return jax.jit(lambda batch, key: CROPS.prepared(batch, PREPROCESS, key))(
        Batch(jnp.asarray(images), jnp.zeros(photos, jnp.int32)), jax.random.key(3)
    )


def close(one, other, **tolerance):
    for got, expected in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(got, expected, **tolerance)


def test_the_teacher_starts_as_the_student_and_follows_it_by_the_cosine_of_its_momentum():
    variables, teacher = VARIABLES, jax.tree.map(np.asarray, VARIABLES.params)
    close(variables.collections["teacher"], teacher, rtol=0)
    for update in range(10):
        params = jax.tree.map(lambda p, i=update: p + 0.1 * (i + 1), variables.params)
        variables = METHOD.after_update(variables.replace(params=params))
        stays = 1 - (1 - 0.9) * (np.cos(np.pi * update / 10) + 1) / 2
        teacher = jax.tree.map(lambda t, p, m=stays: m * t + (1 - m) * np.asarray(p), teacher, params)
        close(variables.collections["teacher"], teacher, rtol=1e-5, atol=1e-6)
    assert float(METHOD.momentum_of(0)) == pytest.approx(0.9)
    assert float(METHOD.momentum_of(10)) == pytest.approx(1.0)


def test_the_teachers_temperature_rises_evenly_and_then_stays():
    temperatures = [float(METHOD.temperature(step)) for step in (0, 1, 2, 4, 100)]
    np.testing.assert_allclose(temperatures, [0.04, 0.0475, 0.055, 0.07, 0.07], rtol=1e-5)
    without = dataclasses.replace(METHOD, temperature_warmup=0)
    assert float(without.temperature(0)) == pytest.approx(0.07)


@functools.cache
def compiled():
    return jax.jit(METHOD.gradient)


@pytest.mark.parametrize(("step", "moves"), [(0, False), (1, False), (2, True), (9, True)])
def test_prototypes_stay_in_the_first_steps_and_all_else_moves(step, moves):
    _, gradients = compiled()(
        VARIABLES.params, VARIABLES.collections, batch_of(), jax.random.key(1), step=step
    )
    for name, gradient in gradients["objective"].items():
        of_prototypes = name in ("prototypes", "lengths")
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient)) == (moves or not of_prototypes)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["network"]))


def test_the_loss_is_that_of_the_views_one_by_one():
    """Each view embedded by itself; the loss from the paper's pseudo code."""
    batch = batch_of(3)
    (loss, aux), _ = compiled()(VARIABLES.params, VARIABLES.collections, batch, jax.random.key(1), step=7)

    def logits(photo):
        params = VARIABLES.params
        embedding, _ = Small().apply({"params": params["network"]}, photo[None], statistics="batch")
        return np.asarray(METHOD.head.apply({"params": params["objective"]}, embedding))[0]

    terms, said = [], []
    for photo in range(3):
        views = [logits(view) for view in (*batch.image[photo], *batch.columns["local"][photo])]
        said.extend(views[:2])
        for g in range(2):
            target = np.exp(views[g] / 0.07) / np.exp(views[g] / 0.07).sum()
            for v in range(5):
                if v != g:
                    log_student = views[v] / 0.1 - np.log(np.exp(views[v] / 0.1).sum())
                    terms.append(-(target * log_student).sum())
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-4)
    np.testing.assert_allclose(aux.collections["centre"], 0.1 * np.mean(said, axis=0), atol=1e-5)


def test_spreading_and_keeping_apart_are_parts_of_the_loss():
    method, batch = dino.make(Small(), **SPREAD), batch_of(4)
    embedding, logits = [], []
    params = VARIABLES.params
    for views in (batch.image, batch.columns["local"]):
        found, _ = Small().apply(
            {"params": params["network"]}, views.reshape(-1, *views.shape[2:]), statistics="batch"
        )
        embedding.append(found.reshape(4, -1, 8))
        logits.append(method.head.apply({"params": params["objective"]}, found).reshape(4, -1, 32))
    joint = jnp.concatenate(logits, axis=1)
    distilled, _ = losses_dino.self_distillation(
        joint, logits[0], jnp.zeros(32), student_temperature=0.1, teacher_temperature=0.07, spread=3
    )
    apart = losses_dino.koleo(embedding[0][:, 0])
    loss, aux = jax.jit(method.loss)(params, VARIABLES.collections, batch, jax.random.key(1), step=7)
    assert float(loss) == pytest.approx(
        float(reduce.mean(distilled)) + 0.5 * float(reduce.mean(apart)), rel=1e-5
    )
    assert float(aux.metrics["koleo"].value()) == pytest.approx(float(reduce.mean(apart)), rel=1e-5)


@pytest.mark.parametrize("registers", [0, 2])
def test_photos_can_be_known_by_their_patches(registers):
    body = ViT("nano", patch=4, positions=2, registers=registers, pooling="cls_and_mean")
    method = dino.make(body, **OPTIONS, readout="patches")
    variables, photos = method.init(jax.random.key(0), SAMPLE), batch_of().image[:3, 0]
    got = method.outputs(variables, photos)["embedding"]
    _, seen = body.apply({"params": variables.params["network"]}, photos, statistics="running")
    assert got.shape == (3, 4 * 96)
    np.testing.assert_allclose(got[:, 96:192], seen["tokens"][:, registers + 2], rtol=1e-5, atol=1e-6)


def test_photos_are_embedded_by_the_teacher():
    photos = batch_of().image[:, 0]
    moved = VARIABLES.replace(params=jax.tree.map(lambda p: p + 1, VARIABLES.params))
    other = VARIABLES.replace(
        collections={**VARIABLES.collections, "teacher": jax.tree.map(lambda p: p * 2, VARIABLES.params)}
    )
    first = METHOD.outputs(VARIABLES, photos)["embedding"]
    np.testing.assert_array_equal(METHOD.outputs(moved, photos)["embedding"], first)
    assert np.abs(METHOD.outputs(other, photos)["embedding"] - first).max() > 0.1


def test_published_weights_come_to_the_teacher_too():
    weights = {"params": {"network": jax.tree.map(jnp.ones_like, VARIABLES.params["network"])}}
    loaded = METHOD.after_loading(with_weights(VARIABLES, weights))
    close(loaded.collections["teacher"]["network"], weights["params"]["network"], rtol=0)


def on_plain_ground(table):
    """Noise in the middle of a ground of another colour in each photo: a background is put behind each."""
    images, colours = table.images.copy(), np.random.default_rng(1).integers(0, 256, (len(table), 1, 1, 3))
    for edge in (np.s_[:, :2], np.s_[:, -2:], np.s_[:, :, :2], np.s_[:, :, -2:]):
        images[edge] = colours
    return dataclasses.replace(table, images=images)


def trained(devices, method, crops, steps=5):
    table = on_plain_ground(table_of_counts([8, 9, 7], side=8, channels=3))
    mesh, plan = data_mesh(devices), uniform.make(table, batch=8, labelled=False)
    reader = ResidentReader.of(table, plan, named_key(0, "train"), mesh)
    optimizer = optax.sgd(0.05)
    state = jax.device_put(TrainState.create(jax.tree.map(jnp.copy, VARIABLES), optimizer), replicated(mesh))
    dispatch = make_dispatch(
        method,
        optimizer,
        reader,
        lambda batch, key: crops.prepared(batch, PREPROCESS, key),
        mesh=mesh,
        key=named_key(0, "step"),
    )
    state, metrics = dispatch(state, reader.constant, reader.inputs(0, steps))
    return jax.tree.map(np.asarray, (state.variables, dict(metrics)))


def test_photos_by_which_devices_are_compared_stand_on_plain_ground():
    photos = jnp.asarray(on_plain_ground(table_of_counts([8, 9, 7], side=8, channels=3)).images)
    assert np.asarray(jax.vmap(plain_ground)(photos)).any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("options", "crops"),
    [(OPTIONS, CROPS), (SPREAD, dataclasses.replace(CROPS, rotate=20.0, background=1.0))],
    ids=["centred", "spread"],
)
def test_five_steps_on_eight_devices_give_the_parameters_of_one(options, crops):
    method = dino.make(Small(), **options)
    one, eight = trained(1, method, crops), trained(8, method, crops)
    close(one[0], eight[0], rtol=1e-4, atol=1e-5)
    close(one[1], eight[1], rtol=1e-3, atol=1e-5)
    assert int(one[0].extra["updates"]) == 5
    moved = np.abs(one[0].params["network"]["conv"]["kernel"] - VARIABLES.params["network"]["conv"]["kernel"])
    assert moved.max() > 1e-3


def test_a_network_with_statistics_of_batches_is_refused():
    body = Conv4(filters=4, reduction="stride", readout="mean", norm="running", formulation="lax")
    with pytest.raises(ValueError, match=r"takes a network without statistics of batches; .* batch_stats"):
        dino.make(body, **OPTIONS).init(jax.random.key(0), SAMPLE)


def test_only_a_vision_transformer_is_read_out_by_patches():
    with pytest.raises(ValueError, match=r"takes a vision transformer without a head, and not frozen: set"):
        dino.make(Small(), **OPTIONS, readout="patches").init(jax.random.key(0), SAMPLE)


def test_both_collapses_are_warned_of():
    most = np.log(32)
    healthy = {"teacher_entropy": 0.5 * most, "teacher_mean_entropy": 0.9 * most}
    assert METHOD.warning(healthy, 1000) is None
    assert METHOD.warning({}, 1000) is None
    assert "the same of all photos" in METHOD.warning({**healthy, "teacher_mean_entropy": 0.001}, 1)
    assert "uniform" in METHOD.warning({**healthy, "teacher_entropy": most}, 1)


def test_embeddings_in_few_dimensions_are_warned_of_once_they_have_been_learnt():
    few, long = {"embedding_dimensions": 3.1}, dataclasses.replace(METHOD, updates=10_000)
    assert "lie in 3.1 dimensions" in METHOD.warning(few, 201)
    assert METHOD.warning(few, 200) is None
    assert METHOD.warning({"embedding_dimensions": 13.0}, 1000) is None
    assert long.warning(few, 500) is None
    assert "options.spread=3 --config.algorithm.options.koleo=1.0" in long.warning(few, 501)
    assert "options.spread" not in dataclasses.replace(long, spread=3).warning(few, 501)
    assert "a higher --config" in dataclasses.replace(long, spread=3, koleo=1.0).warning(few, 501)


def test_uniform_answers_under_spreading_are_photos_that_have_become_one():
    """Equal rows stay equal through Sinkhorn's iterations, whatever the temperature."""
    logits = jnp.broadcast_to(jnp.arange(32.0), (6, 2, 32))
    figures = losses_dino.self_distillation(
        logits, logits, jnp.zeros(32), student_temperature=0.1, teacher_temperature=0.04, spread=3
    )[1]
    told = {name: float(mean.value()) for name, mean in figures.items()}
    assert "no longer tells photos apart" in dino.make(Small(), **SPREAD).warning(told, 1)


def test_a_single_photo_cannot_be_kept_apart():
    method = dino.make(Small(), **SPREAD)
    variables = method.init(jax.random.key(0), SAMPLE)
    one = SAMPLE.replace(
        image=SAMPLE.image[:1], columns={name: each[:1] for name, each in SAMPLE.columns.items()}
    )
    with pytest.raises(ValueError, match=r"config.sampler.options.batch is 1.* take at least 2"):
        method.loss(variables.params, variables.collections, one, jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_temperature": 0.0}, r"teacher_temperature is 0.0; expected above 0"),
        ({"momentum": 1.0}, r"momentum is 1.0; expected 0 to below 1"),
        ({"frozen_steps": -1}, r"frozen_steps is -1; expected steps"),
        ({"outputs": 0}, r"outputs is 0; expected above 0"),
        ({"spread": -1}, r"spread is -1; expected steps"),
        ({"koleo": -1.0}, r"koleo is -1.0; expected a weight"),
        ({"readout": "tokens"}, r"readout is 'tokens'; expected one of embedding, patches"),
    ],
)
def test_values_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        dino.make(Small(), **{**OPTIONS, **changes})


@pytest.mark.slow
def test_a_vision_transformer_takes_views_of_both_sizes_and_learns_from_them():
    body = ViT("nano", patch=4, positions=2, drop_path=0.1)
    method = dino.make(body, **{**OPTIONS, "frozen_steps": 0, "temperature_warmup": 0})
    variables = method.init(jax.random.key(0), SAMPLE)
    of_method, batch, losses = jax.jit(method.gradient), batch_of(), []
    params = variables.params
    for step in range(12):
        (loss, _), gradients = of_method(
            params, variables.collections, batch, jax.random.key(step), step=step
        )
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
        losses.append(float(loss))
    assert np.mean(losses[-3:]) < losses[0]
