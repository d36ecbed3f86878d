"""ResNet-12 files of FEAT and of easy-few-shot-learning (the same names)."""

from fsl_jax.models.pretrained.port import Place, Port
from fsl_jax.models.resnet12 import FILTERS


def _places(options: dict) -> dict[str, Place]:
    del options
    places = {"fc": Place("head", "linear")}
    for block in range(1, len(FILTERS) + 1):
        for layer in (1, 2, 3):
            places[f"layer{block}.0.conv{layer}"] = Place(f"block{block}/layer{layer}/conv", "conv")
            places[f"layer{block}.0.bn{layer}"] = Place(f"block{block}/layer{layer}/norm", "norm")
        places[f"layer{block}.0.downsample.0"] = Place(f"block{block}/shortcut/conv", "conv")
        places[f"layer{block}.0.downsample.1"] = Place(f"block{block}/shortcut/norm", "norm")
    return places


PORTS = (
    Port(
        family="ResNet-12 (FEAT, easy-few-shot-learning)",
        model="resnet12",
        # torchvision's networks have a first convolution before their blocks.
        matches=lambda named: "layer1.0.conv3.weight" in named and "conv1.weight" not in named,
        options=lambda named: {},
        places=_places,
        unused=(r".*\.num_batches_tracked",),
        defaults={"norm": "running"},
        side=84,
        # FEAT's, of miniImageNet.
        mean=(120.39586422 / 255, 115.59361427 / 255, 104.54012653 / 255),
        std=(70.68188272 / 255, 68.27635443 / 255, 72.54505529 / 255),
    ),
)
