"""Cross entropy over the trained labels; what is used afterwards is the embedding.

Presets, as in `--config configs/classify.py:luma`; what to expect lies in benchmarks/results.md:

  (none)      the built-in catalogue, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/classify.py
  luma        a shop's catalogue: EfficientNet-Lite0 of the `pretrained` extra, fine-tuned.
      python -m fsl_jax.main --config configs/classify.py:luma --config.data.root=FOLDER
  inshop, consumer2shop, veri776, sop, cub, cars
              published sets: ResNet-50 (weights: --config.model.pretrained=FILE).
  smoke       seconds: proves that an installation works.
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import unknown_preset

KNOWN = ("luma", *presets.PUBLISHED, "smoke")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = presets.metric_learning()
    config.algorithm.name = "classify"
    config.algorithm.options = ConfigDict({"smoothing": 0.1, "distance": "cosine", "normalised": False})
    config.sampler.name = "uniform"
    config.sampler.options = ConfigDict({"batch": 64})
    if preset == "luma":
        presets.luma(config)
        config.sampler.options.batch = 48
        config.optimizer.rules = (*config.optimizer.rules, ("objective/.*", 10.0))
    elif preset in presets.PUBLISHED:
        presets.published(config, preset, dimensions=512)
        config.optimizer.rules = (("objective/.*", 10.0),)
    elif preset == "smoke":
        presets.smoke(config)
        config.sampler.options.batch = 16
    elif preset:
        raise unknown_preset(preset, "classify.py", KNOWN)
    config.preset = preset
    return config
