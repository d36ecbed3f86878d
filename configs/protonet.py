"""Prototypical networks (Snell et al. 2017, https://arxiv.org/abs/1703.05175).

Presets, as in `--config configs/protonet.py:omniglot_5way_1shot`; what to expect lies in benchmarks/results.md:

  (none)               the built-in catalogue, 5-way 1-shot, colour, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/protonet.py
  omniglot_5way_1shot  the released settings: trained on 60-way episodes with as many shots as in test and 5 queries,
                       judged 5-way with 15 queries, Adam 1e-3 halved every 2,000 steps.
  omniglot_5way_5shot, omniglot_20way_1shot, omniglot_20way_5shot
      python -m fsl_jax.main --config configs/protonet.py:omniglot_5way_1shot --config.data.root=FOLDER
      FOLDER holds images_background.zip, images_evaluation.zip and splits/vinyals_{train,val,test}.txt.
  smoke                seconds: proves that an installation works.

Your own photos: --config.data.source=image_folder --config.data.root=FOLDER (one folder a label).
The norm mode is "batch", as in the released code: predictions are transductive. "running" is not.
"""

from ml_collections import ConfigDict

from fsl_jax.config import base_config, read_omniglot, shrink_to_seconds, unknown_preset

# way, shot of the test episodes
OMNIGLOT = {
    "omniglot_5way_1shot": (5, 1),
    "omniglot_5way_5shot": (5, 5),
    "omniglot_20way_1shot": (20, 1),
    "omniglot_20way_5shot": (20, 5),
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = base_config()
    config.algorithm.name = "protonet"
    config.algorithm.options = ConfigDict({"distance": "squared_euclidean", "temperature": 1.0, "chunk": 0})
    config.model.options = ConfigDict(
        {"filters": 64, "reduction": "max_pool", "readout": "flatten", "norm": "running", "dtype": "float32"}
    )
    config.augment.update({"flip": True, "shift": 2})
    config.episode.update({"tasks": 1, "way": 20, "queries": 3})
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 250})
    config.eval.update({"every": 250})
    if preset in OMNIGLOT:
        _omniglot(config, *OMNIGLOT[preset])
    elif preset == "smoke":
        shrink_to_seconds(config)
    elif preset:
        raise unknown_preset(preset, "protonet.py", (*OMNIGLOT, "smoke"))
    config.preset = preset
    return config


def _omniglot(config: ConfigDict, way: int, shot: int) -> None:
    read_omniglot(config, "vinyals")
    config.model.options.norm = "batch"
    config.augment.update({"flip": False, "shift": 0})
    config.episode.update({"tasks": 1, "way": 60, "shot": shot, "queries": 5})
    config.eval.update({"way": way, "shot": shot, "queries": 15, "every": 1000, "episodes_during": 200})
    config.optimizer.update({"schedule": "halve", "halve_every": 2000})
    config.train.update({"steps": 20_000, "steps_per_call": 10, "log_every": 100, "save_every": 500})
