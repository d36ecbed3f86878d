"""Attributes of photos, any number at once: a semantic map embedded, and attention over channels (Shen et al. 2023).

Presets, as in `--config configs/attributes.py:luma`; what to expect lies in benchmarks/results.md:

  (none)      the built-in catalogue, 32 px: brand, colours, pattern, material, closure. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/attributes.py
  luma        a shop's catalogue with a manifest.csv: EfficientNet-Lite0 of the `pretrained` extra, fine-tuned.
      python -m fsl_jax.main --config configs/attributes.py:luma --config.data.root=FOLDER
  fashion_small
              44,072 small photos of a shop: gender, colour, season and usage; the last blocks of EfficientNet-Lite0.
      python -m fsl_jax.main --config configs/attributes.py:fashion_small --config.data.root=FOLDER
      FOLDER holds styles.csv and images/ or images.zip.
  smoke       seconds: proves that an installation works.

The ablation, behind any preset as in `:luma,variant=baseline`: `baseline` (one linear layer on the embedding),
`attention` (gates over channels alone), `semantic` (the embedded map alone), and the other uses of the map, with gates:
`concatenate`, `multiply`, `mask_input`.
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import split_preset, unknown_preset

KNOWN = ("luma", "fashion_small", "smoke")
VARIANTS = ("baseline", "attention", "semantic", "concatenate", "multiply", "mask_input")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    name, asked = split_preset(preset, "attributes.py", variant=VARIANTS)
    variant = asked.get("variant", "")
    config = presets.categories("attributes")
    config.data.targets.levels = ()
    config.algorithm.options = ConfigDict(
        {
            "fusion": {"": "embed", "semantic": "embed", "baseline": "none", "attention": "none"}.get(
                variant, variant
            ),
            "semantic": "border",
            "parts": 4,
            "width": 64,
            "squeeze": 0 if variant in ("baseline", "semantic") else 16,
            "dropout": 0.0,
            "penalty": 0.0,
            "loss": "binary_cross_entropy",
            "loss_options": {},
            "balance": "none",
            "beta": 0.999,
            "distance": "cosine",
        }
    )
    config.eval.best = "attributes/auc"
    if name == "luma":
        presets.luma_categories(config, network="network/body")
    elif name == "fashion_small":
        _fashion_small(config)
    elif name == "smoke":
        presets.smoke(config)
        presets.categories_alone(config)
        config.data.size = 32  # of 28 px the last map has a single place, where there is nothing to weigh
        config.sampler.options.batch = 16
    elif name:
        raise unknown_preset(name, "attributes.py", KNOWN)
    config.preset = preset
    return config


def _fashion_small(config: ConfigDict) -> None:
    presets.fashion_small(config)
    # A semantic map needs the maps of the photos, so the network cannot be run once and for all: its last blocks train.
    config.data.size = 80
    config.model.frozen = False
    config.augment.update({"flip": True, "shift": 4, "light": 0.1})
    config.sampler.options.batch = 64
    config.optimizer.rules = (("network/body/(stem|block([1-9]|1[0-2]))/.*", 0.0), ("network/body/.*", 0.1))
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 500})
    config.eval.every = 500
