"""Koch's siamese network: published count, sides of its figure, and range of its outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from models.random_variables import random_variables

from fsl_jax.models.koch import Koch


def test_count_with_the_papers_pair_layer_is_the_published_one():
    images = jnp.zeros((1, 105, 105, 1))
    shapes = jax.eval_shape(lambda: Koch(4096).init(jax.random.key(0), images, statistics="running"))
    parameters = sum(np.prod(p.shape, dtype=int) for p in jax.tree.leaves(shapes["params"]))
    assert parameters + 4096 + 1 == 38_951_745


def test_sides_are_those_of_the_papers_figure():
    images = jnp.zeros((2, 105, 105, 1))
    (embedding, seen), _ = jax.eval_shape(
        lambda: Koch(256).init_with_output(jax.random.key(0), images, statistics="running")
    )
    assert [maps.shape[1:] for maps in seen.values()] == [
        (96, 96, 64),
        (42, 42, 128),
        (18, 18, 128),
        (6, 6, 256),
    ]
    assert embedding.shape == (2, 256)


def test_outputs_lie_between_zero_and_one_and_differ():
    images = jax.random.uniform(jax.random.key(1), (2, 65, 65, 1))
    variables = random_variables(Koch(8), images)
    embedding, _ = jax.jit(lambda v: Koch(8).apply(v, images, statistics="running"))(variables)
    assert 0 <= embedding.min() < embedding.max() <= 1
