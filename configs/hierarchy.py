"""Category, subcategory and attributes in one model with structured output (Ferreira et al. 2018).

Presets, as in `--config configs/hierarchy.py:fashion_small`; what to expect lies in benchmarks/results.md:

  (none)      the built-in catalogue, 32 px: category, subcategory, and what its articles look like. Minutes on two CPU
              cores.
      python -m fsl_jax.main --config configs/hierarchy.py
  fashion_small
              44,072 small photos of a shop: subcategory, article type, and gender, colour, season and usage; heads
              on features of EfficientNet-Lite0 (of the `pretrained` extra), which stays as it is. A quarter of an hour.
      python -m fsl_jax.main --config configs/hierarchy.py:fashion_small --config.data.root=FOLDER
      FOLDER holds styles.csv and images/ or images.zip.
  luma        a shop's catalogue with a manifest.csv: EfficientNet-Lite0, fine-tuned.
      python -m fsl_jax.main --config configs/hierarchy.py:luma --config.data.root=FOLDER
  paper       ResNet-50 with ImageNet weights, everything trained, settings of the paper; your csv.
      python -m fsl_jax.main --config configs/hierarchy.py:paper --config.data.root=FOLDER \\
          --config.model.pretrained=FILE
  smoke       seconds: proves that an installation works.

Baselines, behind any preset: `,variant=independent` (branches without messages), `,variant=flat` (one softmax over the
finest names).
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import split_preset, unknown_preset

KNOWN = ("fashion_small", "luma", "paper", "smoke")
VARIANTS = ("independent", "flat")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    name, asked = split_preset(preset, "hierarchy.py", variant=VARIANTS)
    config = presets.categories("hierarchy")
    config.algorithm.options = ConfigDict(
        {
            "heads": asked.get("variant", "structured"),
            "width": 256,
            "dropout": 0.3,
            "penalty": 0.0,
            "loss": "binary_cross_entropy",
            "loss_options": {},
            "balance": "none",
            "beta": 0.999,
            "smoothing": 0.0,
            "distance": "cosine",
        }
    )
    config.eval.best = "levels/f1"
    if name == "fashion_small":
        presets.fashion_small(config)
    elif name == "luma":
        presets.luma_categories(config, network="network")
    elif name == "paper":
        _paper(config)
    elif name == "smoke":
        presets.smoke(config)
        presets.categories_alone(config)
        config.sampler.options.batch = 16
        config.algorithm.options.width = 32
    elif name:
        raise unknown_preset(name, "hierarchy.py", KNOWN)
    config.preset = preset
    return config


def _paper(config: ConfigDict) -> None:
    config.data.update({"source": "csv_manifest", "size": 224, "fit": "pad"})
    config.model.pretrained = "resnet50"
    config.model.options = ConfigDict({"frozen_norm": False})
    config.augment.update({"flip": True, "shift": 14, "light": 0.2, "rotate": 15.0})
    config.algorithm.options.update({"width": 1024, "penalty": 5e-4, "balance": "inverse"})
    config.sampler.options.batch = 32
    config.optimizer.learning_rate = 1e-3
    config.train.update({"steps": 50_000, "steps_per_call": 10, "log_every": 100, "save_every": 1000})
    config.eval.update({"every": 5000, "threshold": 0.75})
