"""Checkpoints: the newest and the best are kept, and what comes back is what was saved."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fsl_jax.algorithms.base import Variables
from fsl_jax.mesh import data_mesh, replicated
from fsl_jax.sampling.refreshed import Neighbours
from fsl_jax.training.checkpoint import Checkpoints
from fsl_jax.training.state import TrainState

OPTIMIZER = optax.adam(1e-3)


def state(value):
    params = {"kernel": jnp.full((2, 3), value), "bias": jnp.arange(3.0)}
    made = TrainState.create(Variables(params, {"batch_stats": {"mean": jnp.zeros(3)}}), OPTIMIZER)
    return jax.device_put(made.replace(step=jnp.asarray(int(value))), replicated(data_mesh(1)))


def like(devices):
    sharding = replicated(data_mesh(devices))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state(0.0))


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", best_metric="accuracy")
    for step, accuracy in [(10, 0.5), (20, 0.9), (30, 0.7), (40, None)]:
        metrics = None if accuracy is None else {"accuracy": accuracy}
        checkpoints.save(step, state(float(step)), {"config": {"seed": 1}, "step": step}, metrics)
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def test_newest_and_best_are_kept_also_by_a_later_process(saved):
    again = Checkpoints(saved.folder, best_metric="accuracy")
    assert (saved.latest(), saved.best()) == (again.latest(), again.best()) == (40, 20)
    assert sorted(int(f.name) for f in saved.folder.iterdir() if f.name.isdigit()) == [20, 40]
    again.save(50, state(50.0), {}, {"accuracy": 0.8})
    again.wait()
    assert sorted(int(f.name) for f in saved.folder.iterdir() if f.name.isdigit()) == [20, 50]
    again.close()


@pytest.mark.parametrize("devices", [1, 8])
def test_what_was_saved_comes_back_on_any_number_of_devices(saved, devices):
    restored = saved.restore(20, like(devices))
    for got, expected in zip(*map(jax.tree.leaves, (restored, state(20.0))), strict=True):
        np.testing.assert_array_equal(got, expected)
        assert len(got.devices()) == devices


def test_a_judge_reads_a_window_whose_shape_it_does_not_know(tmp_path):
    window = Neighbours(jnp.arange(6, dtype=jnp.int32).reshape(3, 2), jnp.asarray([2, 1, 0], jnp.int32))
    checkpoints = Checkpoints(tmp_path / "checkpoints", best_metric=None)
    checkpoints.save(10, state(10.0).replace(window=window), {"step": 10}, None)
    checkpoints.wait()
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints", best_metric=None, read_only=True)
    restored = again.restore(10, like(8)).window
    np.testing.assert_array_equal(restored["place"], window.place)
    np.testing.assert_array_equal(restored["found"], window.found)
    again.close()


def test_config_and_labels_lie_beside_the_state(saved):
    assert saved.described(20) == {"config": {"seed": 1}, "step": 20}


def test_a_half_written_checkpoint_is_not_taken(saved):
    part = saved.folder / "60.orbax-checkpoint-tmp"
    part.mkdir()
    again = Checkpoints(saved.folder, best_metric="accuracy")
    assert again.latest() == 40
    assert again.best() == 20
    for _ in range(300):  # Orbax removes it in the background
        if not part.exists():
            break
        time.sleep(0.1)
    assert not part.exists()
    again.close()


def test_without_any_judged_checkpoint_the_newest_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", best_metric="accuracy")
    assert checkpoints.best() is None
    for step in (1, 2):
        checkpoints.save(step, state(float(step)), {}, None)
    checkpoints.wait()
    assert checkpoints.best() == 2
    checkpoints.close()
