"""The preset "smoke" of a method with a network without kinks, for runs that are compared over devices.

ReLU and max-pooling decide near ties by the last digit, and other devices round otherwise. One decision in twenty
steps is enough to part two runs by 1e-4, and in MAML, whose inner gradient jumps with it, by as much as the parameters
move: that would be a test of rounding. Attention, GELU and layer normalisation are smooth, and two runs stay within
some 2e-7 of each other when one starts with an error of 1e-7.

    python -m fsl_jax.main --config tests/e2e/smooth.py:maml
"""

import importlib

from ml_collections import ConfigDict

from fsl_jax.models import vit

vit.SIZES["two blocks"] = vit.Size(width=32, blocks=2, heads=2)


def get_config(method: str) -> ConfigDict:
    config = importlib.import_module(f"configs.{method}").get_config("smoke")
    config.model.name = "vit"
    config.model.options = ConfigDict({"size": "two blocks", "patch": 14, "positions": 2, "dtype": "float32"})
    return config
