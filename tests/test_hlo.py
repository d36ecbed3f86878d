"""Counting of compiled programs, against sizes known by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from fsl_jax import hlo
from fsl_jax.mesh import AXIS, data_mesh


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


ROWS, COLUMNS = 16, 32
WHOLE = 4 * ROWS * COLUMNS
COLLECTIVES = {
    # What each device is given, what it does, and what each of n devices then sends of the whole array's bytes.
    "all-reduce": (P(), lambda a: lax.psum(a, AXIS), lambda n: 2 * (n - 1) / n),
    "all-gather": (P(AXIS), lambda a: lax.all_gather(a, AXIS, tiled=True), lambda n: (n - 1) / n),
    "reduce-scatter": (P(), lambda a: lax.psum_scatter(a, AXIS, tiled=True), lambda n: (n - 1) / n),
    "all-to-all": (P(), lambda a: lax.all_to_all(a, AXIS, 1, 0, tiled=True), lambda n: (n - 1) / n),
    "ring": (P(), lambda a: lax.ppermute(a, AXIS, ring(lax.axis_size(AXIS))), lambda n: 1),
}


def ring(devices):
    return [(i, (i + 1) % devices) for i in range(devices)]


def count_spread(function, devices, given):
    """Counts what a function does on each device; its results stay where they are."""
    spread = jax.shard_map(
        function, mesh=data_mesh(devices), in_specs=given, out_specs=P(AXIS), check_vma=False
    )
    return count(spread, jnp.ones((ROWS, COLUMNS)))


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_what_each_device_sends_is_that_of_a_ring(name, devices):
    given, function, share = COLLECTIVES[name]
    cost = count_spread(function, devices, given)
    assert cost.sent == pytest.approx(share(devices) * WHOLE)
    assert cost.collectives == 1


def test_several_arrays_of_one_collective_are_added():
    cost = count_spread(lambda a: lax.psum((a, a[0]), AXIS), 4, P())
    assert cost.sent == pytest.approx(2 * 3 / 4 * (WHOLE + 4 * COLUMNS))
    assert cost.collectives == 1


def test_a_collective_in_a_loop_counts_as_often_as_it_runs():
    def repeated(a):
        return lax.scan(lambda carry, _: (lax.pmean(jnp.sin(carry), AXIS), None), a, None, length=7)[0]

    cost = count_spread(repeated, 8, P())
    assert cost.sent == pytest.approx(7 * 2 * 7 / 8 * WHOLE)
    assert cost.collectives == 7


def test_a_group_of_some_devices_is_a_ring_of_its_own():
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7]]
    cost = count_spread(lambda a: lax.psum(a, AXIS, axis_index_groups=pairs), 8, P())
    assert cost.sent == pytest.approx(2 * 1 / 2 * WHOLE)


def test_one_device_sends_nothing():
    assert count(jnp.matmul, jnp.ones((8, 8)), jnp.ones((8, 8))).sent == 0
    assert count_spread(lambda a: lax.psum(a, AXIS), 1, P()).sent == 0


PROGRAM = """HloModule test, replica_count=1, num_partitions=8

%wrapped (a: f32[64]) -> f32[16] {{
  %a = f32[64]{{0}} parameter(0)
  ROOT %r = f32[16]{{0}} reduce-scatter(%a), channel_id=2, replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, dimensions={{0}}
}}

ENTRY %main (p: f32[64]) -> f32[64] {{
  %p = f32[64]{{0}} parameter(0)
  {}
}}
"""
SIZE = 4 * 64


@pytest.mark.parametrize(
    ("started", "sent"),
    [
        # As programs for GPUs and TPUs have it: results are waited for later, and groups are counted.
        ("%s = f32[64]{0} all-reduce-start(%p), replica_groups=[2,4]<=[8], to_apply=%add", 2 * 3 / 4 * SIZE),
        ("%s = f32[64]{0} all-reduce-start(%p), replica_groups=[4,2]<=[2,4]T(1,0)", 2 * 1 / 2 * SIZE),
        ("%s = (f32[64]{0}, f32[256]{0}) all-gather-start(%p), replica_groups={{0,1,2,3},{4,5,6,7}}", 3 * SIZE),
        ("%s = (f32[64], f32[64], u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}", SIZE),
        ("%s = ((f32[64]), f32[16], u32[]) async-start(%p), calls=%wrapped", 3 / 4 * SIZE),
        ("%s = f32[64]{0} all-reduce-start(%p), replica_groups={}, to_apply=%add", 2 * 7 / 8 * SIZE),
    ],
)  # fmt: skip
def test_a_collective_that_is_started_and_waited_for_counts_once(started, sent):
    done = f"ROOT %d = f32[64]{{0}} {'async' if 'async' in started else 'all-reduce'}-done(%s)"
    cost = hlo.cost(PROGRAM.format(f"{started}\n  {done}"))
    assert cost.sent == pytest.approx(sent)
    assert cost.collectives == 1
    assert cost.flops == 0
