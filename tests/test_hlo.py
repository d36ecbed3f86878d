"""Counting of compiled programs, against sizes known by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from fsl_jax import hlo


def count(function, *arrays):
    return hlo.cost(jax.jit(function).lower(*arrays).compile().as_text())


def test_a_matrix_product_is_two_operations_an_element_and_term():
    cost = count(jnp.matmul, jnp.ones((64, 32)), jnp.ones((32, 16)))
    assert cost.flops == 2 * 64 * 32 * 16
    assert cost.bytes >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert cost.bytes < 2 * 4 * (64 * 32 + 32 * 16 + 64 * 16)


def test_a_loop_counts_as_often_as_it_runs():
    def repeated(a, b):
        return lax.scan(lambda carry, _: (carry @ b, None), a, None, length=7)[0]

    square = jnp.ones((64, 64))
    assert count(repeated, square, square).flops == 7 * 2 * 64**3


def test_loops_in_loops_multiply():
    def nested(a, b):
        def outer(carry, _):
            return lax.scan(lambda c, _: (c @ b, None), carry, None, length=3)[0], None

        return lax.scan(outer, a, None, length=5)[0]

    square = jnp.ones((32, 32))
    assert count(nested, square, square).flops == 15 * 2 * 32**3


def test_a_loop_of_unknown_length_is_named():
    def until_large(a):
        return lax.while_loop(lambda c: c[0, 0] < 1e6, lambda c: c @ c, a)

    cost = count(until_large, jnp.ones((16, 16)))
    assert cost.loops_of_unknown_length == 1
    assert cost.flops >= 2 * 16**3


def test_a_convolution_counts_its_window():
    layout = ("NHWC", "HWIO", "NHWC")
    cost = count(
        lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout),
        jnp.ones((2, 8, 8, 3)),
        jnp.ones((3, 3, 3, 5)),
    )
    assert cost.flops == pytest.approx(2 * (2 * 8 * 8 * 5) * 27, rel=0.02)


def test_of_two_branches_the_dearer_one_counts():
    def either(a, which):
        return lax.cond(which, lambda a: a @ a, lambda a: a + 1, a)

    assert count(either, jnp.ones((32, 32)), True).flops == pytest.approx(2 * 32**3, rel=0.05)
