"""Functions that are compiled by themselves, and values that are not computed again."""

import jax
import jax.numpy as jnp
import numpy as np

from fsl_jax.ops.isolate import isolated
from fsl_jax.ops.remember import remembered


def double_sine(array, *, times=1):
    return times * jnp.where(array > 0, jnp.sin(array), 0.0)


double_sine_alone = isolated(double_sine, static=("times",))


def test_values_and_gradients_are_those_of_the_function():
    array = jnp.linspace(-1, 1, 7)
    np.testing.assert_array_equal(double_sine_alone(array, times=3), double_sine(array, times=3))
    gradients = [
        jax.grad(lambda a, f=f: jnp.sum(f(a, times=3)))(array) for f in (double_sine_alone, double_sine)
    ]
    np.testing.assert_array_equal(*gradients)


def test_its_operations_are_not_fused_with_those_around_it():
    def around(function):
        program = jax.jit(lambda a: jnp.cos(function(a + 1)) * 2)
        return program.lower(jnp.ones((64, 64))).compile().as_text()

    def fusions(text):
        entry = text[text.index("ENTRY") :]
        return entry.count(" fusion(") + entry.count(" call(")

    assert fusions(around(double_sine)) == 1
    assert fusions(around(double_sine_alone)) == 3


def test_a_remembered_value_is_taken_as_it_is_and_has_the_functions_derivative():
    square = lambda a: a**2  # noqa: E731
    value, pull = jax.vjp(lambda a: remembered(square, a, value=jnp.float32(7)), jnp.float32(3))
    assert float(value) == 7
    assert float(pull(jnp.float32(1))[0]) == 6
