"""Siamese networks with the contrastive loss (Hadsell, Chopra and LeCun 2006), on pairs of photos.

Presets, as in `--config configs/siamese.py:original`; what to expect lies in benchmarks/results.md:

  (none)      the built-in catalogue, 32 px: pairs of which half are of one label, the worst 40 % of a step count.
      python -m fsl_jax.main --config configs/siamese.py
  luma        a shop's catalogue: EfficientNet-Lite0 of the `pretrained` extra, fine-tuned.
      python -m fsl_jax.main --config configs/siamese.py:luma --config.data.root=FOLDER
      FOLDER holds manifest.csv; any csv of the same columns does.
  inshop, consumer2shop, veri776, sop, cub, cars
              published sets: ResNet-50 (weights: --config.model.pretrained=FILE).
  original    Santos Garcia et al. 2022: ResNet-18 (weights as above) with a head 512-256 and a sigmoid, 224 px, 250
              pairs, margin 2, Adam 5e-5; your photos: --config.data.source, --config.data.root.
  smoke       seconds: proves that an installation works.
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import unknown_preset

KNOWN = ("luma", *presets.PUBLISHED, "original", "smoke")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = presets.metric_learning()
    config.algorithm.options = ConfigDict(
        {
            "loss": "contrastive",
            "loss_options": {"margin": 1.0, "power": 2, "half": False},
            "mining": "given",
            "reducer": "worst",
            "reducer_options": {"share": 0.4},
            "distance": "euclidean",
            "normalised": True,
        }
    )
    config.sampler.name = "pairs"
    config.sampler.options = ConfigDict({"pairs": 64, "p_same": 0.5})
    if preset == "luma":
        presets.luma(config)
        # All pairs of 12 labels x 4 photos: random ones hold too few negatives that are near enough to matter.
        presets.balanced(config, labels=12, photos=4)
        config.algorithm.options.mining = "all"
        # Whitened photos of different labels are about 1.4 apart.
        config.algorithm.options.loss_options.margin = 1.2
    elif preset in presets.PUBLISHED:
        presets.published(config, preset, dimensions=128)
        config.sampler.options.pairs = 56
    elif preset == "original":
        _original(config)
    elif preset == "smoke":
        presets.smoke(config)
        config.sampler.options.pairs = 16
    elif preset:
        raise unknown_preset(preset, "siamese.py", KNOWN)
    config.preset = preset
    return config


def _original(config: ConfigDict) -> None:
    presets.pretrained_resnet18(config)
    config.model.head.update({"sizes": (512, 256), "hidden": "leaky_relu", "output": "sigmoid"})
    config.algorithm.options.normalised = False
    config.algorithm.options.loss_options.margin = 2.0
    config.sampler.options.update({"pairs": 250, "p_same": 0.4})
    config.optimizer.learning_rate = 5e-5
    # An epoch is 10,000 pairs: 40 steps; a hundred of them.
    config.train.update({"steps": 4000, "steps_per_call": 10, "log_every": 40, "save_every": 400})
    config.eval.update({"every": 400, "distance": "euclidean"})
