"""Prototypical networks (Snell et al. 2017, https://arxiv.org/abs/1703.05175).

Presets, as in `--config configs/protonet.py:omniglot_5way_1shot`; what to expect lies in benchmarks/results.md:

  (none)               the built-in catalogue, 5-way 1-shot, colour, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/protonet.py
  omniglot_5way_1shot  the released settings: trained on 60-way episodes with as many shots as in test and 5 queries,
                       judged 5-way with 15 queries, Adam 1e-3 halved every 2,000 steps.
  omniglot_5way_5shot, omniglot_20way_1shot, omniglot_20way_5shot
      python -m fsl_jax.main --config configs/protonet.py:omniglot_5way_1shot --config.data.root=FOLDER
      FOLDER holds images_background.zip, images_evaluation.zip and splits/vinyals_{train,val,test}.txt.
  mini_imagenet_5way_1shot, mini_imagenet_5way_5shot
                       trained 30-way 1-shot and 20-way 5-shot, 15 queries; 84 px.
      python -m fsl_jax.main --config configs/protonet.py:mini_imagenet_5way_1shot --config.data.root=FOLDER
      FOLDER in any layout of docs/data.md.
  lake                 Lake's within-alphabet one-shot task: trained on all 964 background characters and their turns,
                       in 20-way episodes of one alphabet each, on centred drawings, a little stretched and sheared.
      python -m fsl_jax.main --config configs/protonet.py:lake --config.data.root=FOLDER
      fsl-jax one-shot --workdir runs/protonet-lake --root FOLDER --views 16
  lake_small1, lake_small2
                       the same on his minimal sets of five alphabets, which tasks mix.
  features             a head on frozen embeddings that `fsl-jax embed` wrote: seconds.
      python -m fsl_jax.main --config configs/protonet.py:features --config.data.root=features.npz
  efficientnet         the same on photos: EfficientNet-Lite0 of the `pretrained` extra, frozen, with a head.
  resnet50             as Santos Garcia et al. 2022: ResNet-50, frozen, with a head 2048-1024-512; 60-way 5-shot. Their
                       photos are private; name yours, and weights: --config.model.pretrained=resnet50.pth
  resnet50_finetuned   the same with the network trained too, at a tenth of the learning rate.
  smoke                seconds: proves that an installation works.

Your own photos: --config.data.source=image_folder --config.data.root=FOLDER (one folder a label).
The norm mode is "running", as in the released code: a photo's embedding does not depend on the others that are judged.
With --config.model.options.norm=batch it does (transductive).

Three learning rates around a preset's, three seeds each:
      fsl-jax sweep run --config configs/protonet.py --root runs/protonet-sweep
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from fsl_jax.config import (
    base_config,
    read_mini_imagenet,
    read_omniglot,
    shrink_to_seconds,
    unknown_preset,
)
from fsl_jax.data.sources.omniglot import MINIMAL
from fsl_jax.sweep import Settings, product

# way, shot of the test episodes
OMNIGLOT = {
    "omniglot_5way_1shot": (5, 1),
    "omniglot_5way_5shot": (5, 5),
    "omniglot_20way_1shot": (20, 1),
    "omniglot_20way_5shot": (20, 5),
}
# way of the training episodes, shot
MINI_IMAGENET = {"mini_imagenet_5way_1shot": (30, 1), "mini_imagenet_5way_5shot": (20, 5)}

# alphabets that are trained on; all without any
LAKE = {"lake": (), "lake_small1": MINIMAL["small1"], "lake_small2": MINIMAL["small2"]}

# weights, side, learning rate of the network as a share of the head's, shape of the episodes
PRETRAINED = {
    "efficientnet": {
        "weights": "efficientnet_lite0",
        "size": 160,
        "share": 0.0,
        "way": 20,
        "shot": 1,
        "queries": 3,
    },
    "resnet50": {"weights": "resnet50", "size": 224, "share": 0.0, "way": 60, "shot": 5, "queries": 5},
    "resnet50_finetuned": {
        "weights": "resnet50",
        "size": 224,
        "share": 0.1,
        "way": 60,
        "shot": 5,
        "queries": 5,
    },
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = base_config()
    config.algorithm.name = "protonet"
    config.algorithm.options = ConfigDict({"distance": "squared_euclidean", "temperature": 1.0, "chunk": 0})
    config.model.options = ConfigDict(
        {
            "filters": 64,
            "reduction": "max_pool",
            "readout": "flatten",
            "norm": "running",
            "dtype": "float32",
            "formulation": "auto",
        }
    )
    config.augment.update({"flip": True, "shift": 2})
    config.episode.update({"tasks": 1, "way": 20, "queries": 3})
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 250})
    config.eval.update({"every": 250})
    if preset in OMNIGLOT:
        _omniglot(config, *OMNIGLOT[preset])
    elif preset in MINI_IMAGENET:
        _mini_imagenet(config, *MINI_IMAGENET[preset])
    elif preset in LAKE:
        _lake(config, LAKE[preset])
    elif preset in PRETRAINED:
        _pretrained(config, **PRETRAINED[preset])
    elif preset == "features":
        _features(config)
    elif preset == "smoke":
        shrink_to_seconds(config)
    elif preset:
        raise unknown_preset(
            preset, "protonet.py", (*OMNIGLOT, *MINI_IMAGENET, *LAKE, *PRETRAINED, "features", "smoke")
        )
    config.preset = preset
    return config


def get_sweep(preset: str = "") -> Iterable[Settings]:
    """Returns what `fsl-jax sweep run` runs."""
    rate = get_config(preset).optimizer.learning_rate
    return product({"optimizer.learning_rate": (rate / 3, rate, 3 * rate), "seed": range(3)})


def _omniglot(config: ConfigDict, way: int, shot: int) -> None:
    read_omniglot(config, "vinyals")
    config.augment.update({"flip": False, "shift": 0})
    config.episode.update({"tasks": 1, "way": 60, "shot": shot, "queries": 5})
    config.eval.update({"way": way, "shot": shot, "queries": 15, "every": 1000, "episodes_during": 200})
    config.optimizer.update({"schedule": "halve", "halve_every": 2000})
    config.train.update({"steps": 20_000, "steps_per_call": 10, "log_every": 100, "save_every": 500})


def _lake(config: ConfigDict, alphabets: tuple[str, ...]) -> None:
    read_omniglot(config, "lake")
    config.data.omniglot.update({"alphabets": alphabets, "val_characters": 0, "centred": True})
    config.augment.update({"flip": False, "shift": 1, "rotate": 10.0, "scale": 0.2, "shear": 0.2})
    config.episode.update({"tasks": 2, "way": 20, "shot": 1, "queries": 5})
    # Five alphabets make few kinds of tasks: mixed ones err no more there (21.0 % for 22.2 %, each ± 2).
    config.episode.group_by = "" if alphabets else "alphabet_and_turn"
    # All background characters are trained on, so that none is left to choose a checkpoint by.
    config.eval.update({"way": 20, "shot": 1, "queries": 1, "group_by": "alphabet_and_turn", "every": 0})
    config.optimizer.update({"schedule": "cosine"})
    steps = 3000 if alphabets else 4000
    config.train.update({"steps": steps, "steps_per_call": 10, "log_every": 100, "save_every": 500})


def _mini_imagenet(config: ConfigDict, training_way: int, shot: int) -> None:
    read_mini_imagenet(config)
    config.augment.update({"flip": False, "shift": 0})
    config.episode.update({"tasks": 1, "way": training_way, "shot": shot, "queries": 15})
    config.eval.update({"way": 5, "shot": shot, "queries": 15, "every": 1000, "episodes_during": 200})
    config.optimizer.update({"schedule": "halve", "halve_every": 2000})
    config.train.update({"steps": 20_000, "steps_per_call": 10, "log_every": 100, "save_every": 500})


def _pretrained(
    config: ConfigDict, weights: str, size: int, share: float, way: int, shot: int, queries: int
) -> None:
    config.data.size = size
    config.model.pretrained = weights
    config.model.options = ConfigDict({"frozen_norm": True})
    config.model.head.update({"sizes": (1024, 512), "hidden": "relu", "output": "sigmoid"})
    config.optimizer.update({"learning_rate": 1e-4, "rules": (("body/.*", share),)})
    config.episode.update({"way": way, "shot": shot, "queries": queries})
    config.augment.shift = size // 16


def _features(config: ConfigDict) -> None:
    config.data.source = "features"
    config.model.name = "identity"
    config.model.options = ConfigDict({})
    config.model.head.update({"sizes": (512,), "normalised": False})
    config.episode.update({"way": 20, "shot": 1, "queries": 2})
    config.train.update({"steps": 300})
    config.eval.update({"every": 100, "queries": 2})
