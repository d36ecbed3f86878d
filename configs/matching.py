"""Matching networks (Vinyals et al. 2016, https://arxiv.org/abs/1606.04080).

Presets, as in `--config configs/matching.py:omniglot_5way_1shot`:

  (none)               the built-in catalogue, 5-way 1-shot, colour, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/matching.py
  omniglot_5way_1shot, omniglot_5way_5shot, omniglot_20way_1shot, omniglot_20way_5shot
                       trained on episodes as they are tested, characters and rotations from the lists of the paper.
      python -m fsl_jax.main --config configs/matching.py:omniglot_5way_1shot --config.data.root=FOLDER
      FOLDER holds images_background.zip, images_evaluation.zip and splits/vinyals_{train,val,test}.txt.
  mini_imagenet_5way_1shot, mini_imagenet_5way_5shot
                       the same at 84 px, 15 queries.
      python -m fsl_jax.main --config configs/matching.py:mini_imagenet_5way_1shot --config.data.root=FOLDER
      FOLDER in any layout of docs/data.md.
  smoke                seconds: proves that an installation works.

The paper's softmax is over plain cosines, which never differ by more than 2; a temperature of 0.1 trains faster.
"""

from ml_collections import ConfigDict

from fsl_jax.config import (
    base_config,
    read_mini_imagenet,
    read_omniglot,
    shrink_to_seconds,
    unknown_preset,
)

# way, shot
OMNIGLOT = {
    "omniglot_5way_1shot": (5, 1),
    "omniglot_5way_5shot": (5, 5),
    "omniglot_20way_1shot": (20, 1),
    "omniglot_20way_5shot": (20, 5),
}
# shot
MINI_IMAGENET = {"mini_imagenet_5way_1shot": 1, "mini_imagenet_5way_5shot": 5}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = base_config()
    config.algorithm.name = "matching"
    config.algorithm.options = ConfigDict({"temperature": 0.1, "chunk": 0})
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
    config.episode.update({"tasks": 4, "way": 5, "queries": 3})
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 250})
    config.eval.update({"every": 250})
    if preset in OMNIGLOT:
        _omniglot(config, *OMNIGLOT[preset])
    elif preset in MINI_IMAGENET:
        _mini_imagenet(config, MINI_IMAGENET[preset])
    elif preset == "smoke":
        shrink_to_seconds(config)
    elif preset:
        raise unknown_preset(preset, "matching.py", (*OMNIGLOT, *MINI_IMAGENET, "smoke"))
    config.preset = preset
    return config


def _omniglot(config: ConfigDict, way: int, shot: int) -> None:
    read_omniglot(config, "vinyals")
    config.model.options.norm = "batch"
    config.augment.update({"flip": False, "shift": 0})
    config.episode.update({"tasks": 8, "way": way, "shot": shot, "queries": 5})
    config.eval.update({"way": way, "shot": shot, "queries": 15, "every": 1000, "episodes_during": 200})
    config.train.update({"steps": 20_000, "steps_per_call": 10, "log_every": 100, "save_every": 500})


def _mini_imagenet(config: ConfigDict, shot: int) -> None:
    read_mini_imagenet(config)
    config.model.options.norm = "batch"
    config.augment.update({"flip": False, "shift": 0})
    config.episode.update({"tasks": 4, "way": 5, "shot": shot, "queries": 15})
    config.eval.update({"way": 5, "shot": shot, "queries": 15, "every": 1000, "episodes_during": 200})
    config.train.update({"steps": 20_000, "steps_per_call": 10, "log_every": 100, "save_every": 500})
