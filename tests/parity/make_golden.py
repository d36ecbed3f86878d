"""Writes the golden files with PyTorch and transformers: python tests/parity/make_golden.py

Needs numpy, torch, transformers and safetensors, and nothing of this package; the tests that read the files need none
of them. Weights and photos come from seeds (random_weights.py); the files keep outputs only.
"""

import re
import sys
from pathlib import Path

import numpy as np
import torch
from random_weights import LITE0, RESNETS, VITS, model_state, random_photos, stored
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


class Block(nn.Module):
    """Residual block with torchvision's names."""

    def __init__(self, channels, inner, widen, stride):
        super().__init__()
        sides = (3, 3) if widen == 1 else (1, 3, 1)
        widths = [channels, *[inner] * (len(sides) - 1), inner * widen]
        strides = (stride, 1) if widen == 1 else (1, stride, 1)
        for k, side in enumerate(sides, start=1):
            conv = nn.Conv2d(widths[k - 1], widths[k], side, strides[k - 1], side // 2, bias=False)
            setattr(self, f"conv{k}", conv)
            setattr(self, f"bn{k}", nn.BatchNorm2d(widths[k]))
        self.layers, self.downsample = len(sides), None
        if stride != 1 or channels != inner * widen:
            shortcut = nn.Conv2d(channels, inner * widen, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(inner * widen))

    def forward(self, maps):
        found = maps
        for k in range(1, self.layers + 1):
            found = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(torch.relu(found) if k > 1 else found))
        return torch.relu(found + (maps if self.downsample is None else self.downsample(maps)))


class ResNet(nn.Module):
    """ResNet with torchvision's names."""

    def __init__(self, depth):
        super().__init__()
        blocks, widen = RESNETS[depth]
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(blocks):
            inner = 64 * 2**stage
            parts = []
            for i in range(count):
                parts.append(Block(channels, inner, widen, 2 if stage and not i else 1))
                channels = inner * widen
            setattr(self, f"layer{stage + 1}", nn.Sequential(*parts))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, photos):
        maps = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(photos))), 3, 2, 1)
        seen = {"stem": maps}
        for stage in range(4):
            for i, block in enumerate(getattr(self, f"layer{stage + 1}")):
                maps = seen[f"stage{stage + 1}_block{i + 1}"] = block(maps)
        seen["embedding"] = maps.mean((2, 3))
        return {**seen, "logits": self.fc(seen["embedding"])}


def resnet_outputs(name):
    model = ResNet(int(name[6:])).eval()
    state = {key: torch.from_numpy(value) for key, value in model_state(name).items()}
    counters = {
        key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")
    }
    model.load_state_dict({**state, **counters})
    with torch.no_grad():
        seen = model(torch.from_numpy(random_photos(name)))
    return {
        key: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy() for key, value in seen.items()
    }


def resnet12_outputs(name):
    """Computes ResNet-12 from its state dict."""
    state = {key: torch.from_numpy(value) for key, value in model_state(name).items()}

    def layer(maps, conv, norm):
        weight = state[f"{conv}.weight"]
        maps = nn.functional.conv2d(maps, weight, padding=weight.shape[-1] // 2)
        statistics = (state[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(maps, *statistics)

    maps, seen = torch.from_numpy(random_photos(name)), {}
    for block in range(1, 5):
        key, found = f"layer{block}.0", maps
        for i in (1, 2):
            found = nn.functional.leaky_relu(layer(found, f"{key}.conv{i}", f"{key}.bn{i}"), 0.1)
        found = layer(found, f"{key}.conv3", f"{key}.bn3") + layer(
            maps, f"{key}.downsample.0", f"{key}.downsample.1"
        )
        maps = seen[f"block{block}"] = nn.functional.max_pool2d(nn.functional.leaky_relu(found, 0.1), 2)
    seen["embedding"] = maps.mean((2, 3))
    return {
        key: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy() for key, value in seen.items()
    }


def efficientnet_outputs(name):
    """Computes EfficientNet-Lite0 from its state dict, block by block, padded as TensorFlow does."""
    state = {key: torch.from_numpy(value) for key, value in model_state(name).items()}

    def conv(maps, key, stride=1, groups=1):
        weight = state[f"{key}.weight"]
        pads = []
        for side, kernel in zip(reversed(maps.shape[2:]), reversed(weight.shape[2:]), strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return nn.functional.conv2d(nn.functional.pad(maps, pads), weight, stride=stride, groups=groups)

    def norm(maps, key):
        mean, variance, scale, bias = (
            state[f"{key}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return nn.functional.batch_norm(maps, mean, variance, scale, bias, eps=1e-3)

    relu6 = nn.functional.relu6
    maps = relu6(norm(conv(torch.from_numpy(random_photos(name)), "_conv_stem", 2), "_bn0"))
    seen = {"stem": maps}
    blocks = [(stage, i) for stage in LITE0 for i in range(stage[0])]
    for number, ((_, _, stride, expansion, _), i) in enumerate(blocks):
        key, found = f"_blocks.{number}", maps
        if expansion > 1:
            found = relu6(norm(conv(found, f"{key}._expand_conv"), f"{key}._bn0"))
        found = conv(found, f"{key}._depthwise_conv", 1 if i else stride, groups=found.shape[1])
        found = norm(conv(relu6(norm(found, f"{key}._bn1")), f"{key}._project_conv"), f"{key}._bn2")
        maps = seen[f"block{number + 1}"] = found + maps if found.shape == maps.shape else found
    seen["top"] = relu6(norm(conv(maps, "_conv_head"), "_bn1"))
    seen["embedding"] = seen["top"].mean((2, 3))
    seen["logits"] = nn.functional.linear(seen["embedding"], state["_fc.weight"], state["_fc.bias"])
    return {
        key: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy() for key, value in seen.items()
    }


def hugging_face_names(state, own):
    """Renames a state dict in timm's names to those of a transformers model, whose names are `own`."""
    two = any("encoder.layer." in name for name in own)
    renamed = {"register_tokens": "embeddings.register_tokens", "pos_embed": "embeddings.position_embeddings"}
    renamed |= {"cls_token": "embeddings.cls_token"}
    result = {}
    for name, array in state.items():
        new = renamed.get(name, name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection"))
        new = re.sub(r"^norm\.", "layernorm.", new)
        new = re.sub(r"^blocks\.", "encoder.layer." if two else "layers.", new)
        new = re.sub(r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1", new).replace(
            ".attn.proj.", ".attention.o_proj."
        )
        if not two:
            new = new.replace(".norm1.", ".layernorm_before.").replace(".norm2.", ".layernorm_after.")
        parts = np.split(array, 3) if ".attn.qkv." in new else [array]
        for part, letter in zip(parts, "qkv" if len(parts) == 3 else [""], strict=True):
            result[new.replace(".attn.qkv.", f".attention.{letter}_proj.")] = torch.from_numpy(part.copy())
    return result


def transformers_model(name):
    import transformers

    options = VITS[name]
    common = {
        "hidden_size": options["width"], "num_hidden_layers": options["blocks"], "patch_size": options["patch"],
        "num_attention_heads": options["width"] // 64, "layer_norm_eps": 1e-6,
        "image_size": options["patch"] * options["positions"], "attn_implementation": "eager",
    }  # fmt: skip
    if name.startswith("dino_"):
        config = transformers.ViTConfig(**common, intermediate_size=4 * options["width"])
        return transformers.ViTModel(config, add_pooling_layer=False)
    if options.get("registers"):
        config = transformers.Dinov2WithRegistersConfig(**common, num_register_tokens=options["registers"])
        return transformers.Dinov2WithRegistersModel(config)
    return transformers.Dinov2Model(transformers.Dinov2Config(**common))


def vit_outputs(name):
    model = transformers_model(name).eval()
    state = hugging_face_names(model_state(name), list(model.state_dict()))
    result = model.load_state_dict(state, strict=False)
    if result.unexpected_keys or set(result.missing_keys) - {"embeddings.mask_token"}:
        raise ValueError(f"{name}: {result}")
    options = {"interpolate_pos_encoding": True} if name.startswith("dino_") else {}
    with torch.no_grad():
        photos = torch.from_numpy(random_photos(name))
        seen = model(photos, output_hidden_states=True, output_attentions=True, **options)
    blocks = {f"block{i}": tokens.numpy() for i, tokens in enumerate(seen.hidden_states) if i}
    attentions = {f"attention{i + 1}": attention.numpy() for i, attention in enumerate(seen.attentions)}
    if name.endswith("registers"):  # the blocks are those of the model without
        blocks, attentions = {}, {}
    tokens = seen.last_hidden_state
    return {**blocks, **attentions, "tokens": tokens.numpy(), "embedding": tokens[:, 0].numpy()}


def outputs(name):
    """Every block's output and the embedding of a named model."""
    if name in VITS:
        return vit_outputs(name)
    others = {"efficientnet_lite0": efficientnet_outputs, "resnet12": resnet12_outputs}
    return others.get(name, resnet_outputs)(name)


def small_tensors():
    """What a checkpoint can hold: dtypes, views of one storage, turned and empty tensors, a parameter, no axes."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "float32": base + 0.5,
        "view": base[1:3, ::2],
        "turned": base.T,
        "parameter": nn.Parameter(torch.linspace(-1, 1, 5)),
        "float64": torch.tensor([1e-300, 2.0], dtype=torch.float64),
        "float16": torch.tensor([0.5, -2.0], dtype=torch.float16),
        "bfloat16": torch.tensor([1.0, 3.140625], dtype=torch.bfloat16),
        "int64": torch.tensor([[2**40, -1]]),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


def write_small_files():
    from safetensors.torch import save_file

    tensors = small_tensors()
    for name, new in (("zip", True), ("legacy", False)):
        torch.save(tensors, GOLDEN / f"small_{name}.pth", _use_new_zipfile_serialization=new)
        nested = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in tensors.items()}}
        torch.save(nested, GOLDEN / f"nested_{name}.pth", _use_new_zipfile_serialization=new)
    plain = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(plain, GOLDEN / "small.safetensors", metadata={"format": "pt"})


def main():
    GOLDEN.mkdir(exist_ok=True)
    for name in sys.argv[1:] or ["resnet12", "resnet18", "resnet50", "efficientnet_lite0", *VITS]:
        np.savez(GOLDEN / f"{name}.npz", **{key: stored(value) for key, value in outputs(name).items()})
    write_small_files()


if __name__ == "__main__":
    main()
