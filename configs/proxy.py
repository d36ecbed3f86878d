"""Losses with one learned vector a label, and losses that weight all pairs of a batch.

Presets, as in `--config configs/proxy.py:arcface`, joined by commas as in `:luma,proxy_nca`; what to expect lies in
benchmarks/results.md:

  (none), proxy_anchor
              the built-in catalogue, 32 px, Proxy-Anchor (Kim et al. 2020). Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/proxy.py
  proxy_nca, normalised_softmax, arcface, cosface
              other losses with one vector a label; these learn at a rate of their own.
  multi_similarity, circle, sup_con, nt_xent, n_pair
              losses over all pairs of a P x K batch, without proxies.
  luma        a shop's catalogue: EfficientNet-Lite0 of the `pretrained` extra, fine-tuned.
      python -m fsl_jax.main --config configs/proxy.py:luma --config.data.root=FOLDER
  inshop, consumer2shop, veri776, sop, cub, cars
              published sets: ResNet-50 (weights: --config.model.pretrained=FILE).
  vit         beside one of these, as in `:proxy_nca,cub,vit`: ViT-S/16 of DINO, fine-tuned as in Bhattacharyya et al.
              2022 (weights as above, or the workdir of configs/dino.py).
  smoke       seconds: proves that an installation works.
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import unknown_preset

# Options of each loss, as in its paper or in the settings of Roth et al. 2020 (https://arxiv.org/abs/2002.08473).
WITH_PROXIES = {
    "proxy_anchor": {"margin": 0.1, "scale": 32.0},
    "proxy_nca": {"scale": 3.0, "own_in_denominator": True},
    "normalised_softmax": {"temperature": 0.05},
    "arcface": {"margin": 0.5, "scale": 16.0},
    "cosface": {"margin": 0.35, "scale": 16.0},
}
OVER_PAIRS = {
    "multi_similarity": {
        "positive_scale": 2.0,
        "negative_scale": 40.0,
        "threshold": 0.5,
        "mining_margin": 0.1,
    },
    "circle": {"relaxation": 0.4, "scale": 80.0},
    "sup_con": {"temperature": 0.1},
    "nt_xent": {"temperature": 0.1},
    "n_pair": {"photos": 4},
}
LOSSES = {**WITH_PROXIES, **OVER_PAIRS}
KNOWN = (*LOSSES, "luma", *presets.PUBLISHED, "vit", "smoke")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = presets.metric_learning()
    names = [name for name in preset.split(",") if name]
    for name in names:
        if name not in KNOWN:
            raise unknown_preset(name, "proxy.py", KNOWN)
    loss = next((name for name in names if name in LOSSES), "proxy_anchor")
    config.algorithm.options = ConfigDict(
        {
            "loss": loss,
            "loss_options": LOSSES[loss],
            "mining": "",
            "reducer": "mean",
            "distance": "cosine",
            # N-pair compares inner products of embeddings of any length.
            "normalised": loss != "n_pair",
            "memory": 0,
        }
    )
    presets.balanced(config, labels=18, photos=4)
    for name in sorted(names, key=lambda name: name == "vit"):  # it changes what a set has chosen
        if name == "vit":
            presets.vision_transformer(config)
        elif name == "luma":
            presets.luma(config)
            config.sampler.options.labels = 12
        elif name in presets.PUBLISHED:
            presets.published(config, name, dimensions=128)
            presets.balanced(config, labels=28, photos=4)
        elif name == "smoke":
            presets.smoke(config)
            config.sampler.options.labels = 8
    if loss == "n_pair":
        config.algorithm.options.loss_options.photos = config.sampler.options.photos
    if loss in WITH_PROXIES:
        # Proxies start at random beside a network that does not: they need a faster rate.
        rate = 50.0 if set(names) & {"luma", "vit", *presets.PUBLISHED} else 10.0
        config.optimizer.rules = (*config.optimizer.rules, ("objective/proxies", rate))
    config.preset = preset
    return config
