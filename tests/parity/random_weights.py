"""State dicts from a seed, so that both sides of a comparison make the same weights and no file has to carry them."""

import zlib

import numpy as np

PLAIN, BOTTLENECK = 1, 4
RESNETS = {18: ((2, 2, 2, 2), PLAIN), 50: ((3, 4, 6, 3), BOTTLENECK)}
STORED = 1536
"""Elements of a block's output that a golden file keeps."""


def _norm(name, channels):
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def resnet_shapes(depth):
    """Names and shapes of torchvision's ResNet."""
    blocks, widen = RESNETS[depth]
    shapes = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64)}
    channels = 64
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        for i in range(count):
            name = f"layer{stage + 1}.{i}"
            sides = (3, 3) if widen == PLAIN else (1, 3, 1)
            widths = [channels, *[inner] * (len(sides) - 1), inner * widen]
            for k, side in enumerate(sides, start=1):
                shapes |= {f"{name}.conv{k}.weight": (widths[k], widths[k - 1], side, side)}
                shapes |= _norm(f"{name}.bn{k}", widths[k])
            if i == 0 and (stage or widen > 1):
                shapes |= {f"{name}.downsample.0.weight": (inner * widen, channels, 1, 1)}
                shapes |= _norm(f"{name}.downsample.1", inner * widen)
            channels = inner * widen
    return shapes | {"fc.weight": (1000, channels), "fc.bias": (1000,)}


def vit_shapes(*, width, blocks, patch, positions, registers=0, layer_scale=False):
    """Names and shapes of a vision transformer as timm, DINO and DINOv2 call them."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + positions**2, width)}
    shapes |= {"register_tokens": (1, registers, width)} if registers else {}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(blocks):
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in linear.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for k in (1, 2):
            shapes |= {f"blocks.{i}.norm{k}.{leaf}": (width,) for leaf in ("weight", "bias")}
            shapes |= {f"blocks.{i}.ls{k}.gamma": (width,)} if layer_scale else {}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def resnet12_shapes():
    """Names and shapes of ResNet-12 as FEAT and easy-few-shot-learning call them."""
    shapes, channels = {}, 3
    for block, filters in enumerate((64, 160, 320, 640), start=1):
        for layer, given in enumerate((channels, filters, filters), start=1):
            shapes[f"layer{block}.0.conv{layer}.weight"] = (filters, given, 3, 3)
            shapes |= _norm(f"layer{block}.0.bn{layer}", filters)
        shapes[f"layer{block}.0.downsample.0.weight"] = (filters, channels, 1, 1)
        shapes |= _norm(f"layer{block}.0.downsample.1", filters)
        channels = filters
    return shapes


LITE0 = (
    # blocks, kernel, stride, expansion, filters
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def lite0_shapes():
    """Names and shapes of EfficientNet-Lite0 as efficientnet-lite-pytorch calls them."""
    shapes, norms, channels = {"_conv_stem.weight": (32, 3, 3, 3)}, {"_bn0": 32, "_bn1": 1280}, 32
    for i, (_, kernel, _, expansion, filters) in enumerate(stage for stage in LITE0 for _ in range(stage[0])):
        name, wide = f"_blocks.{i}", channels * expansion
        if expansion > 1:
            shapes[f"{name}._expand_conv.weight"] = (wide, channels, 1, 1)
            norms[f"{name}._bn0"] = wide
        shapes[f"{name}._depthwise_conv.weight"] = (wide, 1, kernel, kernel)
        shapes[f"{name}._project_conv.weight"] = (filters, wide, 1, 1)
        norms |= {f"{name}._bn1": wide, f"{name}._bn2": filters}
        channels = filters
    for name, count in norms.items():
        shapes |= _norm(name, count)
    return shapes | {"_conv_head.weight": (1280, 320, 1, 1), "_fc.weight": (1000, 1280), "_fc.bias": (1000,)}


VITS = {
    "dino_s16": {"width": 384, "blocks": 12, "patch": 16, "positions": 14},
    "dinov2_s14": {"width": 384, "blocks": 12, "patch": 14, "positions": 37, "layer_scale": True},
    "dinov2_s14_registers": {
        "width": 384, "blocks": 12, "patch": 14, "positions": 37, "layer_scale": True, "registers": 4,
    },
}  # fmt: skip
SIDES = {
    "resnet18": 64,
    "resnet50": 64,
    "resnet12": 36,
    "efficientnet_lite0": 75,
    "dino_s16": 64,
    "dinov2_s14": 56,
    "dinov2_s14_registers": 56,
}
"""Photo sides: an odd one meets all paddings, those of the transformers make them interpolate their positions."""


def random_array(name, shape, seed):
    """One array of a state dict; statistics and scales are random too, but near 1."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 2.0, shape)
    elif name.endswith("gamma") or (name.endswith(".weight") and len(shape) == 1):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1 or name in ("cls_token", "pos_embed", "register_tokens"):
        values = 0.2 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) * (1.5 / np.prod(shape[1:])) ** 0.5
    return values.astype(np.float32)


def random_state(shapes, seed):
    """A state dict of random arrays."""
    return {name: random_array(name, shape, seed) for name, shape in shapes.items()}


def model_state(name):
    """The state dict of a named model."""
    if name in VITS:
        return random_state(vit_shapes(**VITS[name]), seed=7)
    others = {"efficientnet_lite0": lite0_shapes, "resnet12": resnet12_shapes}
    return random_state(others[name]() if name in others else resnet_shapes(int(name[6:])), seed=7)


def random_photos(name, count=2):
    """Prepared photos [count, 3, side, side]."""
    return np.random.default_rng(11).standard_normal((count, 3, SIDES[name], SIDES[name])).astype(np.float32)


def stored(array):
    """The elements of an output that a golden file keeps: evenly spread, all of a small one."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(STORED, flat.size)).round().astype(int)]
