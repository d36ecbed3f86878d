"""Variables from NumPy: compiling a network's own first values takes longer than most tests."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(model, images, *, seed=0, statistics="running"):
    """Random parameters and statistics of the right shapes, as `model.init` would give; heads take no statistics."""
    call = {} if statistics is None else {"statistics": statistics}
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, **call))
    rng = np.random.default_rng(seed)

    def values(path, shape):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, shape.shape), jnp.float32)
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 25
        return jnp.asarray(rng.standard_normal(shape.shape) * fan_in**-0.5, jnp.float32)

    return jax.tree_util.tree_map_with_path(values, shapes)
