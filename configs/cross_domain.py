"""Three-stream cross-domain retrieval (Gajic and Baldrich 2018): triplets from query to gallery photos.

The negative is drawn from the 25 wrong gallery photos that are nearest to the anchor; every window of steps all photos
are embedded anew and the neighbours looked up.

Presets, as in `--config configs/cross_domain.py:luma`; what to expect lies in benchmarks/results.md:

  (none)      the built-in catalogue, 32 px: customers' photos against the shop's. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/cross_domain.py
  neighbour   the same with the cheap stand-in for hard negatives: a photo of the next article of the same category.
  luma        a shop's catalogue: back, close-up and worn photos against front photos; EfficientNet-Lite0, fine-tuned.
      python -m fsl_jax.main --config configs/cross_domain.py:luma --config.data.root=FOLDER
  consumer2shop, inshop, veri776, sop, cub, cars
              the paper's network: ResNet-50 (weights: --config.model.pretrained=FILE), maximum over places, one linear
              layer, length 1. Sets without two domains in training draw both sides from all photos.
  smoke       seconds: proves that an installation works.

The paper names no margin; 0.1 is that of Gordo et al. 2017 (https://arxiv.org/abs/1610.07940), whose streams these are.
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import unknown_preset

KNOWN = ("neighbour", "luma", *presets.PUBLISHED, "smoke")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = presets.metric_learning()
    config.algorithm.options = ConfigDict(
        {
            "loss": "triplet",
            "loss_options": {"margin": 0.1},
            "mining": "given",
            "reducer": "mean",
            "distance": "euclidean",
            "normalised": True,
            "duplicate": 1e-3,
        }
    )
    config.sampler.name = "refreshed"
    config.sampler.options = ConfigDict(
        {"triplets": 32, "cross_domain": True, "neighbours": 25, "refresh_every": 50}
    )
    if preset == "neighbour":
        config.sampler.name = "triplets"
        config.sampler.options = ConfigDict(
            {"triplets": 32, "cross_domain": True, "negative": "neighbour", "level": "category"}
        )
    elif preset == "luma":
        presets.luma(config)
        config.sampler.options.triplets = 16
    elif preset in presets.PUBLISHED:
        _published(config, preset)
    elif preset == "smoke":
        presets.smoke(config)
        config.sampler.options.update({"triplets": 8, "neighbours": 5, "refresh_every": 10})
    elif preset:
        raise unknown_preset(preset, "cross_domain.py", KNOWN)
    config.preset = preset
    return config


def _published(config: ConfigDict, name: str) -> None:
    presets.published(config, name, dimensions=2048)
    config.model.options.pooling = "max"
    config.sampler.options.update(
        {"triplets": 30, "cross_domain": name == "consumer2shop", "refresh_every": 1000}
    )
