"""The step: one result on 1 and 8 devices, resident or streamed; several steps a dispatch are single steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_episode, table_of_counts
from PIL import Image

from fsl_jax.algorithms import protonet
from fsl_jax.config import base_config
from fsl_jax.data.augment import Augment, Preprocess, prepare_episode
from fsl_jax.data.loader import StreamingReader
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Table
from fsl_jax.mesh import data_mesh, replicated, spread_parameters
from fsl_jax.models.conv4 import Conv4
from fsl_jax.sampling import episodes
from fsl_jax.sampling.keys import named_key
from fsl_jax.training import optimizer as optimizers
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import first_not_finite, make_dispatch

KEY = named_key(0, "train")
METHOD = protonet.make(
    Conv4(filters=4, reduction="stride", readout="mean", norm="batch", formulation="lax"), way=3
)
OPTIMIZER = optax.adam(1e-2)
PREPROCESS = Preprocess(size=8, channels=1, fit="pad", mean=(0.5,), std=(0.5,))
AUGMENT = Augment(flip=True, shift=1, light=0.2)


@pytest.fixture(scope="module")
def table():
    return table_of_counts([4, 5, 6, 4, 7])


@pytest.fixture(scope="module")
def photo_table(table, tmp_path_factory):
    """The same photos as PNG files."""
    folder = tmp_path_factory.mktemp("photos")
    paths = np.array([f"{i}.png" for i in range(len(table))])
    for path, image in zip(paths, table.images, strict=True):
        Image.fromarray(image[..., 0]).save(folder / path)
    return Table(source="test", label=table.label, split=table.split, path=paths, root=folder)


def plan_of(table):
    return episodes.make(table, tasks=8, way=3, shot=1, queries=2)


def streaming(table, mesh):
    return StreamingReader(
        table, plan_of(table), KEY, mesh, size=8, channels=1, fit="pad", threads=2, ahead=2
    )


def trained(reader, mesh, *, calls, steps_per_call, optimizer=OPTIMIZER, method=METHOD, spread=False):
    def prepare(batch, key):
        return prepare_episode(batch, PREPROCESS, AUGMENT, key)

    variables = method.init(jax.random.key(0), random_episode(tasks=1, way=3, shot=1, queries=2))
    state = TrainState.create(variables, optimizer)
    layout = spread_parameters(state, mesh) if spread else replicated(mesh)
    state = jax.device_put(state, layout)
    dispatch = make_dispatch(
        method, optimizer, reader, prepare, mesh=mesh, key=named_key(0, "step"), layout=layout
    )
    losses = []
    for call in range(calls):
        given = reader.inputs(call * steps_per_call, steps_per_call)
        state, metrics = dispatch(state, reader.constant, given)
        losses.extend(np.asarray(metrics["loss"]).tolist())
    reader.close()
    if spread:
        kept = max(jax.tree.leaves(state.variables.params), key=lambda array: array.size)
        assert kept.addressable_shards[0].data.size * mesh.size == kept.size
    return jax.tree.map(np.asarray, state.variables.params), losses


@pytest.fixture(scope="module")
def on_one_device(table):
    mesh = data_mesh(1)
    return trained(ResidentReader.of(table, plan_of(table), KEY, mesh), mesh, calls=1, steps_per_call=5)


def kernels(params):
    return {name: layer["kernel"] for name, layer in params.items() if "kernel" in layer}


def assert_close(one, other, tolerance):
    for got, expected in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(got, expected, atol=tolerance, rtol=tolerance)


def test_five_steps_on_eight_devices_give_the_parameters_of_one(table):
    params, losses = zip(
        *(
            trained(
                ResidentReader.of(table, plan_of(table), KEY, data_mesh(devices)),
                data_mesh(devices),
                calls=1,
                steps_per_call=5,
                optimizer=optax.sgd(0.1, momentum=0.9),
            )
            for devices in (1, 8)
        ),
        strict=True,
    )
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_close(*params, 1e-5)


def test_with_adam_eight_devices_give_the_kernels_of_one(table, on_one_device):
    # Adam divides a gradient by its own size: a bias whose true gradient is 0, since a normalisation follows,
    # moves by rounding alone, and nothing depends on it.
    mesh = data_mesh(8)
    params, losses = trained(
        ResidentReader.of(table, plan_of(table), KEY, mesh), mesh, calls=1, steps_per_call=5
    )
    np.testing.assert_allclose(losses, on_one_device[1], rtol=1e-5)
    assert_close(kernels(params), kernels(on_one_device[0]), 1e-5)


def test_parameters_of_which_each_device_keeps_a_part_become_the_same(table, monkeypatch):
    monkeypatch.setattr("fsl_jax.mesh.SMALL", 100)
    optimizer, mesh = optax.sgd(0.1, momentum=0.9), data_mesh(4)
    whole, parts = (
        trained(
            ResidentReader.of(table, plan_of(table), KEY, mesh),
            mesh,
            calls=2,
            steps_per_call=3,
            optimizer=optimizer,
            spread=spread,
        )
        for spread in (False, True)
    )
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-5)
    assert_close(whole[0], parts[0], 1e-5)


def test_what_no_gradient_moves_moves_with_updates_alone(table):
    """A counter in the method's own variables, over two gradients an update."""

    class Counting(type(METHOD)):
        def after_update(self, variables):
            return variables.replace(extra={"updates": variables.extra["updates"] + 1})

        def init(self, key, sample):
            return super().init(key, sample).replace(extra={"updates": jnp.zeros((), jnp.int32)})

    method = Counting(**{field.name: getattr(METHOD, field.name) for field in dataclasses.fields(METHOD)})
    config = base_config().optimizer
    config.update({"name": "sgd", "accumulate": 2})
    mesh = data_mesh(1)
    reader = ResidentReader.of(table, plan_of(table), KEY, mesh)
    optimizer = optimizers.make(config, {}, steps=6)
    variables = method.init(jax.random.key(0), random_episode(tasks=1, way=3, shot=1, queries=2))
    state = TrainState.create(variables, optimizer)
    dispatch = make_dispatch(
        method,
        optimizer,
        reader,
        lambda batch, key: prepare_episode(batch, PREPROCESS, AUGMENT, key),
        mesh=mesh,
        key=KEY,
        updated=lambda state: optimizers.updated(config, state),
    )
    counts = []
    for step in range(6):
        state, _ = dispatch(state, reader.constant, reader.inputs(step, 1))
        counts.append(int(state.variables.extra["updates"]))
    assert counts == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("kind", ["files", "an array"])
def test_streamed_and_resident_data_give_the_same_run(table, photo_table, on_one_device, kind):
    mesh = data_mesh(1)
    reader = streaming(photo_table if kind == "files" else table, mesh)
    params, losses = trained(reader, mesh, calls=1, steps_per_call=5)
    np.testing.assert_array_equal(losses, on_one_device[1])
    assert_close(params, on_one_device[0], 0)


def test_a_streaming_reader_can_start_anywhere(photo_table, table):
    mesh = data_mesh(1)
    reader = streaming(photo_table, mesh)
    first = np.asarray(reader.inputs(0, 4).images)
    again = np.asarray(reader.inputs(2, 2).images)
    np.testing.assert_array_equal(first[2:], again)
    rows = reader.rows(3, 1)[0]
    np.testing.assert_array_equal(again[1], table.images[rows])


def test_steps_of_one_dispatch_are_the_steps_of_several(table, on_one_device):
    mesh = data_mesh(1)
    reader = ResidentReader.of(table, plan_of(table), KEY, mesh)
    params, losses = trained(reader, mesh, calls=5, steps_per_call=1)
    np.testing.assert_allclose(losses, on_one_device[1], rtol=1e-5)
    assert_close(kernels(params), kernels(on_one_device[0]), 1e-5)


@pytest.mark.parametrize(
    ("loss", "norm", "first"),
    [([1.0, 2.0], [1.0, 1.0], None), ([1.0, np.nan], [1.0, 1.0], 1), ([1, 2], [np.inf, 1], 0)],
)
def test_the_first_step_that_is_not_finite_is_found(loss, norm, first):
    metrics = {"loss": jnp.asarray(loss), "gradient_norm": jnp.ones(2), "parameter_norm": jnp.asarray(norm)}
    assert first_not_finite(metrics) == first
