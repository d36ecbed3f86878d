"""What the configs of metric learning share: the built-in catalogue, a shop's catalogue, and the published sets.

Each function changes a config of `fsl_jax.config.base_config`; a config file adds its loss and its sampler.
"""

from ml_collections import ConfigDict

from fsl_jax.config import base_config, shrink_to_seconds

PUBLISHED = ("inshop", "veri776", "sop", "cub", "cars", "consumer2shop")
"""Presets of published retrieval sets, which are sources of the same names."""
UNSEEN_BRAND = "Aurelio"
"""The brand of the built-in catalogue that only its test split has."""


def metric_learning() -> ConfigDict:
    """Returns a small network on the built-in catalogue, judged by retrieval: minutes on two CPU cores."""
    config = base_config()
    config.algorithm.name = "embedding"
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
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 250})
    config.eval.update({"every": 250, "best": "mAP"})
    # As the original project: a brand that was seen in training, and one that was not.
    config.eval.searches = ConfigDict({"seen_brands": "val", "unseen_brand": f"test?:brand={UNSEEN_BRAND}"})
    return config


def categories(method: str) -> ConfigDict:
    """Returns a small network on the built-in catalogue, judged by its categories and attributes alone."""
    config = metric_learning()
    config.algorithm.name = method
    config.model.options.readout = "mean"
    config.sampler.name = "uniform"
    config.sampler.options = ConfigDict({"batch": 64})
    categories_alone(config)
    # With a constant rate figures still move by some points from one evaluation to the next.
    config.optimizer.update({"learning_rate": 2e-3, "schedule": "cosine", "warmup": 20})
    config.train.update({"steps": 1500, "steps_per_call": 10, "log_every": 50, "save_every": 500})
    config.eval.every = 500
    return config


def categories_alone(config: ConfigDict) -> None:
    """Judges by categories and attributes, not by episodes or retrieval."""
    best = config.eval.best
    retrieval_only(config)
    config.eval.update({"retrieval": False, "best": best})


def luma_categories(config: ConfigDict, *, network: str) -> None:
    """Fine-tunes EfficientNet-Lite0 on a shop's catalogue for its categories and attributes.

    Args:
      config: Changed.
      network: Where in the method's parameters the network's lie.
    """
    luma(config)
    config.model.head.update({"sizes": (), "whitened": 0.0})
    categories_alone(config)
    config.sampler.options.batch = 48
    config.optimizer.rules = ((f"{network}/(stem|block[1-8])/.*", 0.0), ("objective/.*", 10.0))


def fashion_small(config: ConfigDict) -> None:
    """Trains heads on frozen features of the small photos of fashion_products, which are 60 x 80 as published."""
    config.data.update({"source": "fashion_products", "size": 96})
    config.data.targets.levels = ("subCategory", "articleType") if config.data.targets.levels else ()
    config.model.pretrained = "efficientnet_lite0"
    config.model.frozen = True
    config.model.options = ConfigDict({"frozen_norm": True})
    config.augment.update({"flip": False, "shift": 0})
    config.sampler.options.batch = 128
    config.optimizer.update({"learning_rate": 1e-3, "schedule": "cosine", "warmup": 50})
    config.train.update({"steps": 2000, "steps_per_call": 50, "log_every": 100, "save_every": 1000})
    config.eval.every = 1000


def smoke(config: ConfigDict) -> None:
    """Proves that an installation works, in seconds."""
    shrink_to_seconds(config)
    config.eval.searches = ConfigDict({})


def retrieval_only(config: ConfigDict) -> None:
    """Judges by retrieval alone: many labels of these sets have too few photos for an episode."""
    config.eval.update({"episodes": 0, "episodes_during": 0, "best": "mAP"})
    config.eval.grid.ways = ()
    config.eval.searches = ConfigDict({})


def luma(config: ConfigDict) -> None:
    """Fine-tunes EfficientNet-Lite0 on a shop's catalogue: `--config.data.root` is the folder of its manifest.csv.

    About 400 training photos of some 100 articles: what is not regularised forgets. So a linear head starts as a
    whitening and moves slowly, the first blocks and all statistics stay as ImageNet left them, photos are cut to
    smaller squares than they are judged at, and change in colour, since one article comes in several.
    """
    config.data.update({"source": "csv_manifest", "size": 224})
    config.model.pretrained = "efficientnet_lite0"
    config.model.options = ConfigDict({"frozen_norm": True})
    config.model.head.update({"sizes": (1280,), "whitened": 0.01})
    config.augment.update(
        {"flip": True, "shift": 0, "light": 0.3, "crop": 0.4, "crop_size": 160, "colour": 0.4, "grey": 0.2}
    )
    config.optimizer.update({"learning_rate": 1e-4, "schedule": "cosine", "warmup": 10})
    config.optimizer.rules = (("network/body/(stem|block[1-8])/.*", 0.0), ("network/head/.*", 0.1))
    config.train.update({"steps": 100, "steps_per_call": 10, "log_every": 20, "save_every": 50})
    retrieval_only(config)
    config.eval.every = 50


def published(config: ConfigDict, name: str, *, dimensions: int) -> None:
    """Takes a published set with the settings that its papers share.

    ResNet-50 with ImageNet weights (`--config.model.pretrained=FILE`), one linear layer, photos at 224 px, random
    resized crops and mirroring in training.

    Args:
      config: Changed.
      name: Of `PUBLISHED`.
      dimensions: Of the embedding.

    References:
      Roth et al. 2020, https://arxiv.org/abs/2002.08473: Adam 1e-5, weight decay 4e-4, 112 photos a step, 2 a label.
    """
    config.data.update({"source": name, "size": 224, "fit": "crop"})
    config.model.pretrained = "resnet50"
    config.model.options = ConfigDict({"frozen_norm": True})
    config.model.head.update({"sizes": (dimensions,), "normalised": False})
    config.augment.update({"flip": True, "shift": 0, "crop": 0.08})
    config.optimizer.update({"name": "adam", "learning_rate": 1e-5, "weight_decay": 4e-4})
    config.train.update({"steps": 20_000, "steps_per_call": 10, "log_every": 100, "save_every": 1000})
    retrieval_only(config)
    config.eval.every = 2000
    config.eval.same_domain_is_junk = name == "veri776"
    if name == "veri776":
        config.data.fit = "stretch"
    if name in ("cub", "cars"):
        # Their papers choose on the test labels; here the last tenth of the training labels is kept for that.
        config.data[name].val_labels = 10


def vision_transformer(config: ConfigDict) -> None:
    """Takes DINO's ViT-S/16 in the place of another network, with the photos of Bhattacharyya et al. 2022.

    Another start: `--config.model.pretrained`, a file of timm's supervised ViT-S/16, or the workdir of configs/dino.py.

    References:
      https://arxiv.org/abs/2201.08951, section 3.2: one linear layer of 128, Adam 1e-5, 112 photos, 2 a label.
    """
    config.data.update({"size": 224, "fit": "crop"})
    config.model.pretrained = "facebook/dino-vits16"
    config.model.options = ConfigDict({})
    config.model.head.update({"sizes": (128,), "whitened": 0.0})
    balanced(config, labels=56, photos=2)
    config.augment.update({"flip": True, "shift": 0, "crop": 0.08})
    config.optimizer.update({"name": "adam", "learning_rate": 1e-5, "weight_decay": 4e-4})


def pretrained_resnet18(config: ConfigDict) -> None:
    """Takes the network and the photos of Santos Garcia et al. 2022: ResNet-18 with ImageNet weights, 224 px."""
    config.data.update({"size": 224, "fit": "stretch"})
    config.model.pretrained = "resnet18"
    config.augment.update({"flip": True, "shift": 0, "rotate": 10.0})
    config.eval.searches = ConfigDict({})


def balanced(config: ConfigDict, *, labels: int, photos: int, short: str = "repeat") -> None:
    """Draws P labels x K photos a step."""
    config.sampler.name = "balanced"
    config.sampler.options = ConfigDict({"labels": labels, "photos": photos, "short": short, "group_by": ""})
