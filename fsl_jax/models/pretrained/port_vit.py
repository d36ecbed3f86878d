"""Vision transformer files of DINO, DINOv2 and timm (nearly the same names), and of Hugging Face."""

import re

import numpy as np

from fsl_jax.models.pretrained.port import Arrays, Place, Port
from fsl_jax.models.pretrained.port_resnet import IMAGENET_MEAN, IMAGENET_STD
from fsl_jax.models.vit import SIZES

_RENAMED = (
    # Hugging Face: of ViT and of DINOv2, as saved by transformers 4 and 5
    (r"^(?:vit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.(cls_token|mask_token)", r"\1"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.register_tokens", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?(?:(?:query|q_proj)\.)", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:(?:key|k_proj)\.)", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:(?:value|v_proj)\.)", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    # DINOv2's own release
    (r"^register_tokens", "reg_token"),
)


def _renamed(name: str) -> str:
    for pattern, new in _RENAMED:
        name = re.sub(pattern, new, name)
    return name


def _prepared(named: Arrays) -> Arrays:
    """Names the arrays as timm does, with query, key and value in one, and tokens as rows."""
    arrays = {_renamed(name): array for name, array in named.items()}
    for query in [name for name in arrays if ".attn.q." in name]:
        parts = [query.replace(".q.", f".{part}.") for part in "qkv"]
        if all(part in arrays for part in parts):
            arrays[query.replace(".q.", ".qkv.")] = np.concatenate([arrays.pop(part) for part in parts])
    for name in ("cls_token", "pos_embed", "reg_token"):
        if name in arrays and arrays[name].ndim == 3:
            arrays[name] = arrays[name][0]
    return arrays


def _options(named: Arrays) -> dict:
    arrays = _prepared(named)
    width, _, patch, _ = arrays["patch_embed.proj.weight"].shape
    blocks = len({name.split(".")[1] for name in arrays if name.startswith("blocks.")})
    sizes = {(known.width, known.blocks): size for size, known in SIZES.items()}
    if (width, blocks) not in sizes:
        raise ValueError(f"width {width} and {blocks} blocks are no ViT of size {', '.join(SIZES)}")
    registers = arrays.get("reg_token")
    return {
        "size": sizes[width, blocks],
        "patch": patch,
        "positions": round((len(arrays["pos_embed"]) - 1) ** 0.5),
        "registers": 0 if registers is None else len(registers),
        "antialias": registers is not None,
        "layer_scale": "blocks.0.ls1.gamma" in arrays,
    }


def _places(options: dict) -> dict[str, Place]:
    places = {
        "cls_token": Place("cls_token", "array"),
        "pos_embed": Place("positions", "array"),
        "reg_token": Place("registers", "array"),
        "patch_embed.proj": Place("patches", "patches"),
        "norm": Place("norm", "layer_norm"),
        "head": Place("head", "linear"),
    }
    for i in range(SIZES[options["size"]].blocks):
        source, path = f"blocks.{i}", f"block{i + 1}"
        places |= {
            f"{source}.norm1": Place(f"{path}/norm1", "layer_norm"),
            f"{source}.norm2": Place(f"{path}/norm2", "layer_norm"),
            f"{source}.attn.qkv": Place(f"{path}/attention/qkv", "linear"),
            f"{source}.attn.proj": Place(f"{path}/attention/out", "linear"),
            f"{source}.mlp.fc1": Place(f"{path}/linear1", "linear"),
            f"{source}.mlp.fc2": Place(f"{path}/linear2", "linear"),
            f"{source}.ls1.gamma": Place(f"{path}/scale1", "array"),
            f"{source}.ls2.gamma": Place(f"{path}/scale2", "array"),
        }
    return places


def _caution(named: Arrays) -> str:
    """Warns where a file may be of the supervised models, which no array shows."""
    if not {_renamed(name) for name in named} & {"head.weight", "head.bias"}:
        return ""
    return (
        "a ViT with a classifier: took ImageNet's mean and std, as DeiT has; those of Google and timm's augreg have "
        "dataclasses.replace(preprocess, mean=(0.5,), std=(0.5,))"
    )


def _matches(named: Arrays) -> bool:
    names = {_renamed(name) for name in named}
    return {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= names


PORTS = (
    Port(
        family="ViT (DINO, DINOv2, timm, Hugging Face)",
        model="vit",
        matches=_matches,
        options=_options,
        places=_places,
        # Of training with masks, of DINO's own head, and of an unused layer on the first token.
        unused=(r"mask_token", r"head\.(mlp|last_layer)\..*", r"pooler\..*"),
        prepare=_prepared,
        caution=_caution,
        side=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
)
