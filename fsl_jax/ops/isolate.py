"""Functions that XLA compiles by themselves, so that their results are computed once.

XLA fuses sums and differences into whatever reads them, and so computes them again for each reader and, where the
reader joins several arrays, with a branch an element. On a CPU that costs more than the arithmetic, and
`lax.optimization_barrier` does not help there: it is dropped before operations are fused.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from fsl_jax.ops.backend import is_cpu

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def isolated(
    function: Callable[Arguments, Result], *, static: tuple[str, ...] = ()
) -> Callable[Arguments, Result]:
    """Keeps XLA from mixing the operations of a function with those around it on a CPU; the values are the same.

    Args:
      function: Takes and returns pytrees of arrays; made once, at module level, since programs are kept by function.
      static: Names of arguments that are no arrays.
    """

    # What lies inside is not to be kept apart again: much of jax.numpy is itself a compiled function.
    @functools.wraps(function)
    def inside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with set_xla_metadata(inlineable=None):
            return function(*args, **kwargs)

    compiled = jax.jit(inside, static_argnames=static)

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not is_cpu():
            return function(*args, **kwargs)
        with set_xla_metadata(inlineable="false"):
            return compiled(*args, **kwargs)

    return call
