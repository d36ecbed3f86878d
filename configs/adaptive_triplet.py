"""Adaptive triplet loss (Zhao et al. 2019): the margin grows with the distance of the articles' descriptions.

Presets, as in `--config configs/adaptive_triplet.py:luma`; what to expect lies in benchmarks/results.md. The `text`
extra (scikit-learn) makes the description vectors:

  (none)      the built-in catalogue with its descriptions, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/adaptive_triplet.py
  luma        a shop's catalogue with the shop's own texts: EfficientNet-Lite0, fine-tuned.
      python -m fsl_jax.main --config configs/adaptive_triplet.py:luma --config.data.root=FOLDER
  inshop, consumer2shop
              ResNet-50 (weights: --config.model.pretrained=FILE). These sets come without texts: give vectors of your
              own as --config.data.text.vectors=FILE.npz.
  smoke       seconds: proves that an installation works.

Vectors are TF-IDF and a truncated SVD of the training descriptions, or your own: --config.data.text.vectors=FILE.npz.
The paper's scaling can be read in two ways: --config.algorithm.options.loss_options.scaling=divide or multiply.
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import unknown_preset

WITH_TEXT = ("inshop", "consumer2shop")
KNOWN = ("luma", *WITH_TEXT, "smoke")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = presets.metric_learning()
    config.algorithm.options = ConfigDict(
        {
            "loss": "adaptive_triplet",
            "loss_options": {"margin": 0.2, "scaling": "divide"},
            "mining": "batch_all",
            "mining_options": {},
            "reducer": "nonzero_mean",
            # Margins are distances of unit vectors, squared; so are those of photos.
            "distance": "squared_euclidean",
            "normalised": True,
        }
    )
    config.data.text.vectors = "tfidf"
    presets.balanced(config, labels=18, photos=4)
    if preset == "luma":
        presets.luma(config)
        config.sampler.options.labels = 12
    elif preset in WITH_TEXT:
        presets.published(config, preset, dimensions=128)
        presets.balanced(config, labels=28, photos=4)
    elif preset == "smoke":
        presets.smoke(config)
        config.sampler.options.update({"labels": 8, "photos": 3})
    elif preset:
        raise unknown_preset(preset, "adaptive_triplet.py", KNOWN)
    config.preset = preset
    return config
