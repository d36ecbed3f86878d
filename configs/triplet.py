"""Triplet loss with every mining, on P labels x K photos.

Presets, as in `--config configs/triplet.py:semi_hard`, joined by commas as in `:luma,batch_all`; what to expect lies in
benchmarks/results.md:

  (none), batch_hard   the built-in catalogue, 32 px, batch hard with the soft margin (Hermans et al. 2017). Minutes
                       on two CPU cores.
      python -m fsl_jax.main --config configs/triplet.py
  batch_all, batch_weighted, batch_sample, semi_hard, distance_weighted
                       other minings; semi_hard is FaceNet's, with the squared distance and a margin of 0.2.
  margin               margin loss with learned boundaries, on distance-weighted sampling (Wu et al. 2017).
  luma                 a shop's catalogue: EfficientNet-Lite0 of the `pretrained` extra, fine-tuned.
      python -m fsl_jax.main --config configs/triplet.py:luma --config.data.root=FOLDER
      FOLDER holds manifest.csv; any csv of the same columns does.
  inshop, consumer2shop, veri776, sop, cub, cars
                       published sets with published settings: ResNet-50 (weights: --config.model.pretrained=FILE).
  vit                  beside one of these, as in `:margin,cub,vit`: ViT-S/16 of DINO, fine-tuned as in
                       Bhattacharyya et al. 2022 (weights as above, or the workdir of configs/dino.py).
  original             Santos Garcia et al. 2022: ResNet-18 (weights as above), given triplets, hinge of 10 on sigmoid
                       embeddings, the worst 35 % of 25; your photos: --config.data.source, --config.data.root.
  smoke                seconds: proves that an installation works.

All minings on the same photos, three seeds each:
      fsl-jax sweep run --config configs/triplet.py:luma --root runs/minings --config.data.root=FOLDER
"""

from collections.abc import Iterable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fsl_jax import presets
from fsl_jax.config import unknown_preset
from fsl_jax.sweep import Settings, product

MININGS = (
    "batch_hard",
    "batch_all",
    "batch_weighted",
    "batch_sample",
    "semi_hard",
    "distance_weighted",
    "margin",
)
SETS = ("luma", *presets.PUBLISHED)
KNOWN = (*MININGS, *SETS, "vit", "original", "smoke")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = presets.metric_learning()
    names = [name for name in preset.split(",") if name]
    for name in names:
        if name not in KNOWN:
            raise unknown_preset(name, "triplet.py", KNOWN)
    _mining(config, next((name for name in names if name in MININGS), "batch_hard"))
    presets.balanced(config, labels=18, photos=4)
    for name in sorted(names, key=lambda name: name == "vit"):  # it changes what a set has chosen
        if name in presets.PUBLISHED:
            _published(config, name)
        elif name == "vit":
            presets.vision_transformer(config)
        elif name == "luma":
            _luma(config)
        elif name == "original":
            _original(config)
        elif name == "smoke":
            presets.smoke(config)
            config.sampler.options.update({"labels": 8, "photos": 3})
    config.preset = preset
    return config


def get_sweep(preset: str = "") -> Iterable[Settings]:
    """Returns what `fsl-jax sweep run` runs."""
    others = [name for name in preset.split(",") if name and name not in MININGS]
    return product({"preset": [",".join((*others, mining)) for mining in MININGS], "seed": range(3)})


def _mining(config: ConfigDict, name: str) -> None:
    soft = {"margin": placeholder(float)}
    config.algorithm.options = ConfigDict(
        {
            "loss": "triplet",
            "loss_options": soft,
            "mining": name,
            "mining_options": {},
            "reducer": "nonzero_mean" if name == "batch_all" else "mean",
            "reducer_options": {},
            "distance": "euclidean",
            "normalised": False,
            "memory": 0,
        }
    )
    options = config.algorithm.options
    if name == "semi_hard":
        options.update({"distance": "squared_euclidean", "normalised": True})
        options.loss_options.margin = 0.2
    if name in ("margin", "distance_weighted"):
        options.update({"mining": "distance_weighted", "normalised": True})
        options.mining_options = ConfigDict({"cutoff": 0.5, "furthest": 1.4})
        options.loss_options.margin = 0.2
    if name == "margin":
        options.update({"loss": "margin", "reducer": "nonzero_mean"})
        options.loss_options.start = 1.2
        # Boundaries move at a rate of their own, 5e-4 for 1e-5 in the published settings.
        config.optimizer.rules = (("objective/boundary", 50.0),)
    if not options.normalised:
        config.eval.distance = "euclidean"


def _luma(config: ConfigDict) -> None:
    presets.luma(config)
    config.sampler.options.labels = 12
    options = config.algorithm.options
    options.normalised = True
    config.eval.distance = "cosine"
    if options.loss == "triplet" and options.loss_options.margin is None:
        options.loss_options.margin = 0.2


def _published(config: ConfigDict, name: str) -> None:
    presets.published(config, name, dimensions=128)
    presets.balanced(config, labels=56, photos=2)
    if name in ("inshop", "veri776"):  # as the chapter on visual embeddings: 18 x 4, Adam 3e-4 that decays
        presets.balanced(config, labels=18, photos=4)
        config.augment.crop = 0.0
        config.optimizer.update({"learning_rate": 3e-4, "weight_decay": 0.0})


def _original(config: ConfigDict) -> None:
    presets.pretrained_resnet18(config)
    config.model.head.update({"sizes": (512,), "output": "leaky_sigmoid"})
    config.sampler.name = "triplets"
    config.sampler.options = ConfigDict({"triplets": 25, "cross_domain": False, "negative": "any"})
    config.algorithm.options.update({"mining": "given", "reducer": "worst"})
    config.algorithm.options.reducer_options = ConfigDict({"share": 0.35})
    config.algorithm.options.loss_options.margin = 10.0
    config.optimizer.learning_rate = 1e-5
    config.train.update({"steps": 20_000, "steps_per_call": 10, "log_every": 100, "save_every": 1000})
    config.eval.every = 1000
