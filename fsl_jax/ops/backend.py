"""For which backend operations are made: how they are computed best differs, what they compute does not."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_ANY = contextvars.ContextVar("any_backend", default=False)


def is_cpu() -> bool:
    """Whether operations are traced for a CPU, and may take its own formulations."""
    return not _ANY.get() and jax.default_backend() == "cpu"


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Traces operations for any backend: in XLA's own formulation, with nothing that only a CPU's compiler obeys.

    It holds for this thread. What was traced before keeps its form, so trace a function of your own inside.
    """
    token = _ANY.set(True)
    try:
        yield
    finally:
        _ANY.reset(token)
