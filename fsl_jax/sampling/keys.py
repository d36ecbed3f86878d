"""Random keys by purpose, so that no two parts of a run share one, and none depends on the order of calls."""

import zlib

import jax

from fsl_jax.types import Key


def named_key(seed: int, purpose: str) -> Key:
    """Returns the key of a purpose, such as "train" or "evaluate".

    Threefry is named: what the backend would choose may differ between machines.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), zlib.crc32(purpose.encode()))
