"""ResNet files of torchvision and timm (the same names), and of Hugging Face."""

from fsl_jax.models.pretrained.port import Arrays, Place, Port
from fsl_jax.models.resnet import DEPTHS, FIRST_BOTTLENECK

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _depth(blocks: tuple[int, ...], *, bottleneck: bool) -> int:
    for depth, counts in DEPTHS.items():
        if counts == blocks and (depth >= FIRST_BOTTLENECK) == bottleneck:
            return depth
    kind = "bottlenecks" if bottleneck else "plain blocks"
    raise ValueError(f"stages of {blocks} {kind} are no ResNet of depth {', '.join(map(str, DEPTHS))}")


def _blocks(named: Arrays, weight: str) -> tuple[int, ...]:
    """Counts the blocks of each stage that have this weight."""
    return tuple(
        sum(
            weight.format(stage=stage, block=block) in named
            for block in range(max(map(max, DEPTHS.values())))
        )
        for stage in range(4)
    )


def _torchvision_options(named: Arrays) -> dict:
    counts = _blocks(_from_zero(named), "layer{stage}.{block}.conv1.weight")
    squeeze = named.get("layer1.0.se.fc1.weight")
    options = {"depth": _depth(counts, bottleneck="layer1.0.conv3.weight" in named)}
    return options | ({} if squeeze is None else {"squeeze": squeeze.shape[1] // squeeze.shape[0]})


def _from_zero(named: Arrays) -> Arrays:
    """Counts stages from 0, as Hugging Face does."""
    return {
        f"layer{int(name[5]) - 1}{name[6:]}": array
        for name, array in named.items()
        if name.startswith("layer")
    }


def _torchvision_places(options: dict) -> dict[str, Place]:
    bottleneck = options["depth"] >= FIRST_BOTTLENECK
    places = {
        "conv1": Place("stem/conv", "conv"),
        "bn1": Place("stem/norm", "norm"),
        "fc": Place("head", "linear"),
    }
    for stage, blocks in enumerate(DEPTHS[options["depth"]], start=1):
        for block in range(blocks):
            source, path = f"layer{stage}.{block}", f"stage{stage}_block{block + 1}"
            for layer in range(1, 4 if bottleneck else 3):
                places[f"{source}.conv{layer}"] = Place(f"{path}/layer{layer}/conv", "conv")
                places[f"{source}.bn{layer}"] = Place(f"{path}/layer{layer}/norm", "norm")
            places[f"{source}.downsample.0"] = Place(f"{path}/shortcut/conv", "conv")
            places[f"{source}.downsample.1"] = Place(f"{path}/shortcut/norm", "norm")
            for layer in (1, 2) if options.get("squeeze") else ():
                places[f"{source}.se.fc{layer}"] = Place(f"{path}/squeeze/linear{layer}", "linear")
    return places


def _hugging_face_options(named: Arrays) -> dict:
    counts = _blocks(named, "resnet.encoder.stages.{stage}.layers.{block}.layer.0.convolution.weight")
    return {
        "depth": _depth(
            counts, bottleneck="resnet.encoder.stages.0.layers.0.layer.2.convolution.weight" in named
        )
    }


def _hugging_face_places(options: dict) -> dict[str, Place]:
    places = {"classifier.1": Place("head", "linear")}

    def add(source: str, path: str) -> None:
        places[f"resnet.{source}.convolution"] = Place(f"{path}/conv", "conv")
        places[f"resnet.{source}.normalization"] = Place(f"{path}/norm", "norm")

    add("embedder.embedder", "stem")
    for stage, blocks in enumerate(DEPTHS[options["depth"]]):
        for block in range(blocks):
            source, path = f"encoder.stages.{stage}.layers.{block}", f"stage{stage + 1}_block{block + 1}"
            add(f"{source}.shortcut", f"{path}/shortcut")
            for layer in range(3 if options["depth"] >= FIRST_BOTTLENECK else 2):
                add(f"{source}.layer.{layer}", f"{path}/layer{layer + 1}")
    return places


def _with_resnet_prefix(named: Arrays) -> Arrays:
    """Names the arrays of a body alone as those of a classifier."""
    return {
        name if name.startswith(("resnet.", "classifier.")) else f"resnet.{name}": array
        for name, array in named.items()
    }


PORTS = (
    Port(
        family="ResNet (torchvision, timm)",
        model="resnet",
        matches=lambda named: "conv1.weight" in named and "layer1.0.conv1.weight" in named,
        options=_torchvision_options,
        places=_torchvision_places,
        unused=(r".*\.num_batches_tracked",),
        defaults={"norm": "running"},
        side=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    Port(
        family="ResNet (Hugging Face)",
        model="resnet",
        matches=lambda named: any(name.endswith("embedder.embedder.convolution.weight") for name in named),
        options=lambda named: _hugging_face_options(_with_resnet_prefix(named)),
        places=_hugging_face_places,
        unused=(r".*\.num_batches_tracked",),
        defaults={"norm": "running"},
        prepare=_with_resnet_prefix,
        side=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
)
