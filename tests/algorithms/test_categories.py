"""Classifiers by a taxonomy: the loss by hand, what reaches it, how many devices, and what is refused."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from helpers import table_of_counts

from fsl_jax.algorithms import attributes, hierarchy
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.targets import ATTRIBUTES, LEVELS
from fsl_jax.mesh import data_mesh, replicated, rows_sharding
from fsl_jax.models.conv4 import Conv4
from fsl_jax.sampling import uniform
from fsl_jax.taxonomy import Level, Taxonomy
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import make_dispatch
from fsl_jax.types import Batch

TAXONOMY = Taxonomy(
    levels=(
        Level("category", ("bags", "tops"), (), (4, 12)),
        Level("subcategory", ("coats", "tees", "totes"), (1, 1, 0), (3, 9, 2)),
    ),
    attributes=("colour=blue", "colour=red", "new"),
    positives=(2, 8, 5),
    negatives=(6, 1, 5),
)
LABELS, PHOTOS = 4, 16
CONV = Conv4(filters=4, reduction="stride", readout="mean", norm="running", formulation="lax")
UNKNOWN = -1


class Linear(nn.Module):
    """A network of one layer, so that heads and losses alone take time to compile."""

    norm: str = "running"

    @nn.compact
    def __call__(self, images, *, statistics):
        del statistics
        return nn.Dense(6, name="linear")(images.reshape(images.shape[0], -1)), {}


def structure(body=None, taxonomy=TAXONOMY, **options):
    options = {"width": 5, "dropout": 0.0, "penalty": 0.0, "balance": "none", **options}
    return hierarchy.make(body or Linear(), labels=LABELS, taxonomy=taxonomy, **options)


def multilabel(body=None, taxonomy=TAXONOMY, **options):
    options = {"fusion": "none", "squeeze": 2, **options}
    return attributes.make(body or Linear(), labels=LABELS, taxonomy=taxonomy, **options)


def batch_of(seed=0, side=2, known=True):
    """Random photos that look a little like their names, a third of whose names and attributes are unknown."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 3, PHOTOS)
    levels = np.stack([np.array([1, 1, 0])[fine], fine], axis=1).astype(np.int32)
    truth = rng.integers(0, 2, (PHOTOS, 3)).astype(np.int8)
    images = rng.standard_normal((3, side, side, 3))[fine] + rng.standard_normal((PHOTOS, side, side, 3))
    for column in (levels, truth):
        column[rng.random(column.shape) < (1 / 3 if known else 1)] = UNKNOWN
    columns = {LEVELS: jnp.asarray(levels), ATTRIBUTES: jnp.asarray(truth)}
    return Batch(jnp.asarray(images, jnp.float32), jnp.asarray(rng.integers(0, LABELS, PHOTOS)), columns)


def started(method, batch):
    """Random variables of the shapes that `init` gives, no bias 0; compiling `init` takes longer than most tests."""
    rng = np.random.default_rng(0)

    def values(path, shape):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, shape.shape), jnp.float32)
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 25
        return jnp.asarray(rng.standard_normal(shape.shape) * fan_in**-0.5, jnp.float32)

    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    return jax.tree_util.tree_map_with_path(values, shapes)


def of_batch(method, batch):
    """Variables, and of a batch the loss, the metrics' values and the logits that the method gives."""
    variables = started(method, batch)
    return variables, *jax.tree.map(np.asarray, both(method)(variables, batch, jax.random.key(1)))


def both(method):
    @jax.jit
    def loss_and_outputs(variables, batch, key):
        loss, aux = method.loss(variables.params, variables.collections, batch, key)
        metrics = {name: mean.value() for name, mean in aux.metrics.items()}
        return loss, metrics, method.outputs(variables, batch.image)

    return loss_and_outputs


# The loss by hand, in NumPy loops, of the logits that the method gives where nothing is dropped.

WEIGHTS = {
    "none": lambda count: 1.0,
    "inverse": lambda count: 1 / count,
    "inverse_root": lambda count: count**-0.5,
    "class_balanced": lambda count: (1 - 0.9) / (1 - 0.9**count),
}


def weights_by_hand(counts, rule):
    """Of each name, so that the mean over all training items is 1."""
    raw = [WEIGHTS[rule](count) for count in counts]
    scale = sum(counts) / sum(count * weight for count, weight in zip(counts, raw, strict=True))
    return [weight * scale for weight in raw]


def level_by_hand(logits, codes, weights, smoothing=0.0):
    values = []
    for row, code in zip(np.asarray(logits, float), np.asarray(codes), strict=True):
        if code != UNKNOWN:
            minus_log = -np.log(np.exp(row) / np.exp(row).sum())
            target = (1 - smoothing) * minus_log[code] + smoothing * minus_log.mean()
            values.append(weights[code] * target)
    return np.mean(values)


def entropy(p, has):
    return -np.log(p if has else 1 - p)


def focal(p, has, *, gamma, alpha):
    of_truth, factor = (p, alpha) if has else (1 - p, 1 - alpha)
    return -factor * (1 - of_truth) ** gamma * np.log(of_truth)


def asymmetric(p, has, *, gamma_positive, gamma_negative, clip):
    if has:
        return -((1 - p) ** gamma_positive) * np.log(p)
    shifted = max(p - clip, 0)
    return -(shifted**gamma_negative) * np.log(1 - shifted)


def attributes_by_hand(logits, truth, rule, element=entropy):
    sides = zip(TAXONOMY.negatives, TAXONOMY.positives, strict=True)
    weights = [weights_by_hand(counts, rule) for counts in sides]  # of lacking, and of having
    values = []
    for i, row in enumerate(np.asarray(truth)):
        for j, has in enumerate(row):
            if has != UNKNOWN:
                probability = 1 / (1 + np.exp(-float(logits[i, j])))
                values.append(weights[j][has] * element(probability, has))
    return np.mean(values)


def kernels_squared(variables):
    heads = traverse_util.flatten_dict(variables.params["objective"])
    kernels = [np.asarray(value, float) for name, value in heads.items() if name[-1] == "kernel"]
    return sum((kernel**2).sum() for kernel in kernels)


@pytest.mark.parametrize(
    ("heads", "rule"),
    [
        ("structured", "none"),
        ("structured", "inverse"),
        ("independent", "inverse_root"),
        ("independent", "class_balanced"),
    ],
)
def test_the_loss_is_the_sum_over_levels_and_attributes_of_what_is_known(heads, rule):
    method, batch = structure(heads=heads, balance=rule, beta=0.9, penalty=0.01), batch_of()
    variables, loss, metrics, logits = of_batch(method, batch)
    codes = np.asarray(batch.columns[LEVELS])
    expected = 0.01 * kernels_squared(variables)
    for i, level in enumerate(TAXONOMY.levels):
        known = codes[:, i] != UNKNOWN
        assert 0 < known.sum() < PHOTOS
        expected += level_by_hand(logits["levels"][i], codes[:, i], weights_by_hand(level.counts, rule))
        hits = logits["levels"][i].argmax(axis=1)[known] == codes[known, i]
        np.testing.assert_allclose(metrics[f"{level.name}_accuracy"], hits.mean(), rtol=1e-6)
    expected += attributes_by_hand(logits["attributes"], batch.columns[ATTRIBUTES], rule)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_of_the_flat_model_only_the_finest_level_has_a_loss():
    batch = batch_of()
    _, loss, metrics, logits = of_batch(structure(heads="flat", balance="inverse"), batch)
    weights = weights_by_hand(TAXONOMY.levels[1].counts, "inverse")
    expected = level_by_hand(logits["levels"][1], batch.columns[LEVELS][:, 1], weights)
    expected += attributes_by_hand(logits["attributes"], batch.columns[ATTRIBUTES], "inverse")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert "subcategory_accuracy" in metrics
    assert "category_accuracy" not in metrics


LOSSES = {
    "binary_cross_entropy": (entropy, {}),
    "focal": (focal, {"gamma": 2.0, "alpha": 0.25}),
    "asymmetric": (asymmetric, {"gamma_positive": 0.5, "gamma_negative": 4.0, "clip": 0.05}),
}


@pytest.mark.parametrize("loss", list(LOSSES))
def test_attributes_alone_have_the_chosen_loss_with_its_options_and_the_penalty(loss):
    element, options = LOSSES[loss]
    method = multilabel(loss=loss, loss_options=options, balance="inverse", penalty=0.1)
    batch = batch_of()
    variables, whole, metrics, logits = of_batch(method, batch)
    assert "levels" not in logits
    element = functools.partial(element, **options)
    expected = attributes_by_hand(logits["attributes"], batch.columns[ATTRIBUTES], "inverse", element)
    np.testing.assert_allclose(metrics["attributes_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(whole, expected + 0.1 * kernels_squared(variables), rtol=1e-5)


def test_the_attributes_of_a_hierarchy_have_the_chosen_loss_too():
    element, options = LOSSES["focal"]
    method = structure(heads="independent", loss="focal", loss_options=options)
    batch = batch_of()
    _, _, metrics, logits = of_batch(method, batch)
    element = functools.partial(element, **options)
    expected = attributes_by_hand(logits["attributes"], batch.columns[ATTRIBUTES], "none", element)
    np.testing.assert_allclose(metrics["attributes_loss"], expected, rtol=1e-4)


def test_smoothing_spreads_a_share_of_the_target_over_all_names():
    bare, batch = Taxonomy(levels=TAXONOMY.levels[1:]), batch_of()
    codes = batch.columns[LEVELS][:, 1:]
    method = structure(taxonomy=bare, heads="independent", smoothing=0.2, balance="inverse")
    _, loss, _, logits = of_batch(method, batch.replace(columns={LEVELS: codes}))
    assert "attributes" not in logits
    weights = weights_by_hand(bare.levels[0].counts, "inverse")
    expected = level_by_hand(logits["levels"][0], codes[:, 0], weights, smoothing=0.2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_batch_of_which_nothing_is_known_has_no_loss_and_no_gradient():
    method, batch = structure(heads="independent", balance="inverse"), batch_of(known=False)
    variables = started(method, batch)
    given = variables.params, variables.collections, batch, jax.random.key(0)
    (loss, _), gradients = jax.jit(method.gradient)(*given)
    assert float(loss) == 0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients))


def test_dropout_acts_in_training_alone():
    batch = batch_of()
    for dropout in (0.0, 0.5):
        method = structure(heads="independent", dropout=dropout)
        variables, program = started(method, batch), both(method)
        (one, _, first), (other, _, again) = (program(variables, batch, jax.random.key(k)) for k in (1, 2))
        assert (float(one) != float(other)) is (dropout > 0)
        np.testing.assert_array_equal(first["attributes"], again["attributes"])


# Whole methods, one on a small convolutional network with running statistics.

METHODS = {
    "structured": functools.partial(structure, dropout=0.3, penalty=1e-3, balance="inverse"),
    "flat": functools.partial(structure, heads="flat", balance="class_balanced"),
    "attributes": functools.partial(
        multilabel,
        CONV,
        fusion="embed",
        semantic="border",
        width=4,
        loss="focal",
        loss_options={"gamma": 2.0, "alpha": None},
        balance="inverse_root",
    ),
}


@functools.cache
def made(name):
    """Method, batch, variables, compiled gradient and what it gives on one device."""
    method, batch = METHODS[name](), batch_of(side=8)
    variables, gradient = started(method, batch), jax.jit(method.gradient)
    given = variables.params, variables.collections, batch, jax.random.key(1)
    return method, batch, variables, gradient, gradient(*given)


@pytest.fixture(params=list(METHODS))
def case(request):
    return made(request.param)


def close(one, other, **tolerance):
    for got, expected in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(got, expected, **tolerance)


def test_a_batch_on_eight_devices_is_the_batch_on_one(case):
    _, batch, variables, gradient, ((one, aux), gradients) = case
    mesh = data_mesh(8)
    spread = jax.device_put(batch, rows_sharding(mesh))
    given = jax.device_put((variables.params, variables.collections), replicated(mesh))
    (other, other_aux), others = gradient(*given, spread, jax.device_put(jax.random.key(1), replicated(mesh)))
    assert len(spread.columns[LEVELS].sharding.device_set) == 8
    np.testing.assert_allclose(other, one, rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    assert largest > 0
    close(others, gradients, rtol=1e-4, atol=1e-5 * largest)
    close(other_aux, aux, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_finite_and_reaches_network_and_heads(case):
    _, _, _, _, (_, gradients) = case
    for group in ("network", "objective"):
        leaves = jax.tree.leaves(gradients[group])
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert any((np.asarray(leaf) != 0).any() for leaf in leaves)


def test_steps_lower_the_loss_and_compile_nothing_more(case):
    _, batch, variables, gradient, ((first, _), _) = case
    params, before = variables.params, gradient._cache_size()

    def moved(p, g):
        return jnp.asarray(np.asarray(p) - np.float32(0.02) * np.asarray(g))

    for _ in range(20):
        (loss, _), gradients = gradient(params, variables.collections, batch, jax.random.key(1))
        params = jax.tree.map(moved, params, gradients)
    assert float(loss) < float(first)
    assert gradient._cache_size() == before


def test_what_is_said_of_a_photo_does_not_depend_on_the_others(case):
    method, batch, variables, _, _ = case
    outputs = jax.jit(method.outputs)
    together = outputs(variables, batch.image)
    alone = outputs(variables, batch.image[3:4])
    assert together.keys() == alone.keys()
    for one, all_ in zip(*map(jax.tree.leaves, (alone, together)), strict=True):
        np.testing.assert_allclose(one[0], all_[3], rtol=1e-4, atol=1e-5)


def test_frozen_parameters_have_no_gradient_and_the_heads_keep_theirs():
    method, batch, variables, _, (_, whole) = made("flat")
    frozen = {
        group: jax.tree.map(lambda _, stays=group == "network": stays, of_group)
        for group, of_group in variables.params.items()
    }
    gradient = jax.jit(functools.partial(method.gradient, frozen=frozen))
    _, part = gradient(variables.params, variables.collections, batch, jax.random.key(1))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(part["network"]))
    close(part["objective"], whole["objective"], rtol=1e-4, atol=1e-6)


def test_columns_of_a_table_reach_the_loss_in_the_program_of_training():
    rng = np.random.default_rng(0)
    table = table_of_counts([4] * LABELS, channels=3)
    columns = {
        LEVELS: rng.integers(-1, 2, (len(table), 2)).astype(np.int32),
        ATTRIBUTES: rng.integers(-1, 2, (len(table), 3)).astype(np.int8),
    }
    table = dataclasses.replace(table, numbers=columns)
    preprocess = Preprocess(size=8, channels=3, fit="pad", mean=(0.5,), std=(0.5,))
    method = structure(heads="independent", balance="inverse")
    mesh, optimizer = data_mesh(8), optax.sgd(0.1)
    # A step takes every photo once, so that its loss is that of the table in any order.
    whole = Batch(
        preprocess(table.images), jnp.asarray(table.label.codes), jax.tree.map(jnp.asarray, columns)
    )
    variables, expected, _, _ = of_batch(method, whole)
    reader = ResidentReader.of(table, uniform.make(table, batch=len(table)), jax.random.key(0), mesh)
    dispatch = make_dispatch(
        method,
        optimizer,
        reader,
        lambda batch, key: batch.replace(image=preprocess(batch.image)),
        mesh=mesh,
        key=jax.random.key(0),
    )
    state = jax.device_put(TrainState.create(variables, optimizer), replicated(mesh))
    _, metrics = dispatch(state, reader.constant, reader.inputs(0, 2))
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)
    assert metrics["loss"][1] < metrics["loss"][0]


def test_facts_say_what_is_composed():
    told = structure(heads="flat", balance="inverse", loss="focal", loss_options=LOSSES["focal"][1]).facts()
    assert told.items() >= {"heads": "flat", "balance": "inverse", "outputs": 8, "loss": "focal"}.items()
    assert "loss" not in structure(taxonomy=Taxonomy(levels=TAXONOMY.levels)).facts()
    told = multilabel(squeeze=0).facts()
    assert told.items() >= {"fusion": "none", "attention": False, "outputs": 3, "balance": "none"}.items()
    assert "semantic" not in told
    assert multilabel(fusion="multiply", semantic="border").facts()["semantic"] == "border"


@pytest.mark.parametrize(
    ("make", "changed", "message"),
    [
        (structure, {"heads": "structred"}, r"options\.heads is 'structred'; known: .*did you mean 'structured'"),
        (structure, {"loss": "focl"}, r"options\.loss is 'focl'; known: .*did you mean 'focal'"),
        (structure, {"loss": "focal"}, r"loss_options lacks the option gamma, alpha"),
        (structure, {"loss_options": {"gamma": 2.0}}, r"loss_options has no option 'gamma'; known: none"),
        (structure, {"loss_options": {"weights": None}}, r"has no option 'weights'"),
        (structure, {"balance": "invers"}, r"'invers'; known: none, inverse.*did you mean 'inverse'"),
        (structure, {"taxonomy": Taxonomy(attributes=("a", "b"))}, r"needs levels.*take method 'attributes'"),
        (multilabel, {"taxonomy": Taxonomy(levels=TAXONOMY.levels)}, r"needs attributes, such as a csv column"),
        (multilabel, {"loss": "hinge"}, r"options\.loss is 'hinge'; known: binary_cross_entropy, focal"),
        (multilabel, {"loss": "asymmetric", "loss_options": {"clip": 0.05}}, r"lacks the option gamma_positive"),
        (multilabel, {"balance": "rare"}, r"'rare'; known: none, inverse, inverse_root, class_balanced"),
        (structure, {"balance": "class_balanced", "beta": 1.5}, r"beta is 1\.5; expected"),
        (structure, {"smoothing": 3.0}, r"options\.smoothing is 3\.0; expected 0 to below 1"),
        (structure, {"dropout": 1.5}, r"options\.dropout is 1\.5; expected 0 to below 1"),
        (structure, {"penalty": -1.0}, r"options\.penalty is -1\.0; expected at least 0"),
        (multilabel, {"loss": "focal", "loss_options": {"gamma": -1.0, "alpha": None}}, r"gamma is -1\.0; expected"),
    ],
)  # fmt: skip
def test_what_is_unknown_or_missing_is_refused(make, changed, message):
    with pytest.raises(ValueError, match=message):
        make(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fusion": "embd"}, "fusion is 'embd'; known: .*did you mean 'embed'"),
        ({"fusion": "embed", "semantic": "edges"}, "semantic is 'edges'; known: learned, border, given"),
        ({"fusion": "embed", "semantic": "given"}, "needs photos with a mask.*data.channels=4"),
    ],
)
def test_uses_of_the_semantic_map_that_do_not_fit_are_refused_at_the_start(changed, message):
    with pytest.raises(ValueError, match=message):
        multilabel(CONV, **changed).init(jax.random.key(0), batch_of(side=8))
