"""DINO: self-distillation of a vision transformer on photos without labels (Caron et al. 2021).

What comes out is an embedding network: for `fsl-jax few-shot`, for `fsl-jax index`, and as the start of metric learning
(configs/triplet.py:cub,vit and its like). Labels of the training photos are not looked at; those of the validation and
the test split judge the embeddings. Presets, as in `--config configs/dino.py:fashion_small`; what to expect lies in
benchmarks/results.md:

  (none), catalogue    the built-in catalogue, 32 px, ViT-nano with patches of 8. Some 10 minutes on two CPU cores.
      python -m fsl_jax.main --config configs/dino.py
  fashion_small        the small photos of fashion_products, 64 px, patches of 16; article types are judged.
      python -m fsl_jax.main --config configs/dino.py:fashion_small --config.data.root=FOLDER
  paper                ViT-S/16 at 224 px, 10 small views of 96 px, 100 epochs of 900,000 photos in batches of 1,024.
      python -m fsl_jax.main --config configs/dino.py:paper --config.data.root=FOLDER
      FOLDER holds one folder a label, such as ImageNet's synsets. Only those that the file names, one a line, as the
      708 of Bhattacharyya et al. 2022: --config.data.image_folder.only=FILE
  smoke                seconds: proves that an installation works.

Your own photos: --config.data.source=image_folder --config.data.root=FOLDER.
"""

from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.config import base_config, unknown_preset

KNOWN = ("catalogue", "fashion_small", "paper", "smoke")


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    if preset and preset not in KNOWN:
        raise unknown_preset(preset, "dino.py", KNOWN)
    config = _catalogue()
    if preset == "fashion_small":
        _fashion_small(config)
    elif preset == "paper":
        _paper(config)
    elif preset == "smoke":
        presets.smoke(config)
        config.data.size = 32  # a multiple of the patch
        config.sampler.options.batch = 8
        config.algorithm.options.outputs = 64
        config.eval.every = 20
    config.preset = preset
    return config


def _catalogue() -> ConfigDict:
    config = base_config()
    config.model.name = "vit"
    config.model.options = ConfigDict(
        {
            "size": "nano",
            "patch": 8,
            "positions": 4,
            "drop_path": 0.0,
            "dtype": "float32",
            "pooling": "cls_and_mean",
        }
    )
    config.sampler.name = "uniform"
    config.sampler.options = ConfigDict({"batch": 32, "labelled": False})
    config.multicrop.update({"size": 32, "local_size": 16, "local": 4, "share": (0.5, 1.0)})
    config.multicrop.update({"local_share": (0.2, 0.6), "sigma": (0.1, 0.6), "blur": (0.5, 0.1, 0.2)})
    # Colours tell articles apart, and backgrounds do not.
    config.multicrop.update({"hue": 0.04, "grey": 0.0, "solarise": 0.0, "rotate": 20.0, "background": 1.0})
    config.algorithm.name = "dino"
    config.algorithm.options = ConfigDict(
        {
            "outputs": 256,
            "hidden": 256,
            "bottleneck": 64,
            "learned_lengths": False,
            "momentum": 0.99,
            "student_temperature": 0.1,
            "teacher_temperature": 0.02,
            "first_temperature": 0.02,
            "temperature_warmup": 0,
            "centre_momentum": 0.9,
            "frozen_steps": 50,
            "spread": 3,
            "koleo": 1.0,
            "readout": "patches",
            "distance": "cosine",
        }
    )
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": 5e-4,
            "schedule": "cosine",
            "warmup": 100,
            "final": 0.01,
            "weight_decay": 0.04,
            "weight_decay_final": 0.04,
            "clip_each_norm": 3.0,
        }
    )
    config.train.update({"steps": 2400, "steps_per_call": 10, "log_every": 100, "save_every": 400})
    config.eval.update({"every": 800, "best": "knn"})
    config.eval.held_out.update({"neighbours": 20, "linear": True})
    return config


def _fashion_small(config: ConfigDict) -> None:
    config.data.update({"source": "fashion_products", "size": 64, "min_photos": 4})
    # Article types of test have no photo in training.
    config.data.fashion_products.update({"label": "articleType", "split_rule": "labels"})
    config.model.options.update({"patch": 16, "positions": 4})
    config.multicrop.update({"size": 64, "local_size": 32})
    config.train.steps = 1200
    config.eval.every = 600


def _paper(config: ConfigDict) -> None:
    config.data.update(
        {"source": "image_folder", "size": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    )
    config.model.options.update(
        {
            "size": "small",
            "patch": 16,
            "positions": 14,
            "drop_path": 0.1,
            "dtype": "bfloat16",
            "pooling": "cls",
        }
    )
    config.sampler.options.batch = 1024
    config.multicrop.update(
        {
            "size": 224,
            "local_size": 96,
            "local": 10,
            "share": (0.25, 1.0),
            "local_share": (0.05, 0.25),
            "sigma": (0.1, 2.0),
            "blur": (1.0, 0.1, 0.5),
            "hue": 0.1,
            "grey": 0.2,
            "solarise": 0.2,
            "rotate": 0.0,
            "background": 0.0,
        }
    )
    epoch = 880  # steps
    config.algorithm.options.update(
        {
            "outputs": 65_536,
            "hidden": 2048,
            "bottleneck": 256,
            "learned_lengths": True,
            "momentum": 0.996,
            "teacher_temperature": 0.07,
            "first_temperature": 0.04,
            "temperature_warmup": 30 * epoch,
            "frozen_steps": epoch,
            "spread": 0,
            "koleo": 0.0,
            "readout": "embedding",
        }
    )
    # 5e-4 for 256 photos.
    config.optimizer.update(
        {"learning_rate": 2e-3, "warmup": 10 * epoch, "final": 5e-4, "weight_decay_final": 0.4}
    )
    config.train.update({"steps": 100 * epoch, "steps_per_call": 20, "log_every": 100, "save_every": epoch})
    config.eval.every = 10 * epoch
