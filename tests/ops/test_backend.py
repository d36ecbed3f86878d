"""Operations can be traced for any backend, whatever this one is."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.ops.backend import is_cpu, portable
from fsl_jax.ops.conv import conv2d


def convolution():
    """One that a CPU computes by matrix products of its own."""
    images, weights = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    return lambda: conv2d(images, weights, stride=1, padding="SAME")


def test_inside_nothing_is_made_for_a_cpu():
    assert is_cpu() == (jax.default_backend() == "cpu")
    with portable():
        assert not is_cpu()
        assert "convolution" in jax.jit(convolution()).lower().as_text()
    assert is_cpu() == (jax.default_backend() == "cpu")


def test_the_values_are_the_same():
    with portable():
        elsewhere = jax.jit(convolution())()
    np.testing.assert_allclose(jax.jit(convolution())(), elsewhere, rtol=1e-5)


def test_an_error_ends_it():
    with pytest.raises(ValueError, match="broken"), portable():
        raise ValueError("broken")
    assert is_cpu() == (jax.default_backend() == "cpu")


def test_other_threads_are_not_asked():
    seen = []
    with portable():
        thread = threading.Thread(target=lambda: seen.append(is_cpu()))
        thread.start()
        thread.join()
    assert seen == [jax.default_backend() == "cpu"]
