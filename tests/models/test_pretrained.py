"""Loading weights into networks: every name that publishers use, and what does not fit."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from flax import traverse_util
from parity.random_weights import (
    LITE0,
    VITS,
    model_state,
    random_array,
    random_photos,
    random_state,
    vit_shapes,
)

from fsl_jax.models.heads import Classifier
from fsl_jax.models.pretrained import load
from fsl_jax.models.resnet import ResNet
from fsl_jax.models.resnet12 import ResNet12


@pytest.fixture(scope="module")
def resnet18():
    return model_state("resnet18")


def written(tmp_path, state, name="weights.npz"):
    np.savez(tmp_path / name, **state)
    return tmp_path / name


def flat(variables):
    return {name: np.asarray(array) for name, array in traverse_util.flatten_dict(variables, sep="/").items()}


def assert_same(ours, theirs):
    ours, theirs = flat(ours), flat(theirs)
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    return said


def test_the_network_is_seen_from_the_file_and_every_array_has_its_place(tmp_path, resnet18, warnings):
    model, variables, preprocess = load(written(tmp_path, resnet18), labels=1000)
    assert isinstance(model, Classifier)
    assert model.body == ResNet(18, norm="running")
    body = variables["params"]["body"]
    np.testing.assert_array_equal(
        body["stem"]["conv"]["kernel"][1, 2, 0, 5], resnet18["conv1.weight"][5, 0, 1, 2]
    )
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], resnet18["fc.weight"].T)
    statistics = variables["batch_stats"]["body"]["stage2_block1"]["shortcut"]["norm"]
    np.testing.assert_array_equal(statistics["var"], resnet18["layer2.0.downsample.1.running_var"])
    assert sum(array.size for array in flat(variables).values()) == sum(a.size for a in resnet18.values())
    assert (preprocess.size, preprocess.mean, preprocess.std) == (
        224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
    )  # fmt: skip
    assert not warnings


def test_without_labels_there_is_no_classifier(tmp_path, resnet18):
    model, variables, _ = load(written(tmp_path, resnet18))
    assert model == ResNet(18, norm="running")
    assert "head" not in variables["params"]


def test_options_reach_the_network_and_wrong_ones_are_refused(tmp_path, resnet18):
    file = written(tmp_path, resnet18)
    options = {"pooling": "max", "frozen_norm": True, "dtype": "bfloat16", "norm": "batch"}
    assert load(file, options=options).model == ResNet(18, **options)
    with pytest.raises(ValueError, match=r"no option 'poling'; .*did you mean 'pooling'"):
        load(file, options={"poling": "max"})


def test_a_classifier_with_other_labels_is_made_anew_and_said_so(tmp_path, resnet18, warnings):
    file = written(tmp_path, resnet18)
    with pytest.raises(
        ValueError, match="the classifier has 1000 labels, and one with 7 must be made anew: pass key="
    ):
        load(file, labels=7)
    _, variables, _ = load(file, labels=7, key=jax.random.key(0))
    assert variables["params"]["head"]["kernel"].shape == (512, 7)
    assert warnings[-1].endswith("its classifier has 1000 labels; made a new one with 7")


def test_a_file_without_classifier_gets_one(tmp_path, resnet18, warnings):
    body = {name: array for name, array in resnet18.items() if not name.startswith("fc.")}
    load(written(tmp_path, body), labels=7, key=jax.random.key(0))
    assert warnings[-1].endswith("its classifier is not in the file; made a new one with 7")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer3.1.bn2.bias"), "1 missing: params/stage3_block2/layer2/norm/bias"),
        (lambda s: s.update({"layer1.0.extra.weight": np.zeros(3)}), r"1 left over: layer1.0.extra.weight"),
        (lambda s: s.pop("fc.bias"), "half of the classifier is missing; there is kernel"),
        (
            lambda s: s.update({"bn1.weight": np.zeros(32, np.float32)}),
            r"1 wrong: bn1.weight has shape \(32,\), as params/stem/norm/scale \(32,\); expected \(64,\)",
        ),
        (
            lambda s: s.update({"conv1.weight": np.zeros((64, 147), np.float32)}),
            r"conv1.weight has shape \(64, 147\); expected 4 axes",
        ),
        (
            lambda s: s.update({"fc.weight": np.zeros((1000, 9), np.float32)}),
            "the classifier takes 9 dimensions, the network gives 512: load without labels=",
        ),
    ],
)
def test_what_does_not_fit_is_listed(tmp_path, resnet18, change, message):
    state = dict(resnet18)
    change(state)
    with pytest.raises(ValueError, match=message) as caught:
        load(written(tmp_path, state), labels=1000)
    assert str(caught.value).startswith(str(tmp_path / "weights.npz"))


def test_several_problems_are_listed_together(tmp_path, resnet18):
    state = {name: array for name, array in resnet18.items() if not name.startswith("layer2.0.bn")}
    state |= {"a.weight": np.zeros(3), "b.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"8 missing: .*; 2 left over: a.weight, b.weight"):
        load(written(tmp_path, state))


def test_arrays_of_no_known_network_are_named(tmp_path):
    with pytest.raises(ValueError, match="arrays such as a, b are of no known network; known: ResNet"):
        load(written(tmp_path, {"a": np.zeros(3), "b": np.zeros(3)}))


def test_a_depth_that_is_no_resnet_is_named(tmp_path, resnet18):
    state = {name: array for name, array in resnet18.items() if not name.startswith("layer4.1")}
    with pytest.raises(
        ValueError, match=r"stages of \(2, 2, 2, 1\) plain blocks are no ResNet of depth 18, 34"
    ):
        load(written(tmp_path, state))


def test_parameters_that_a_file_cannot_have_are_made_only_when_allowed(tmp_path, resnet18, warnings):
    file, options = written(tmp_path, resnet18), {"pooling": "gem"}
    with pytest.raises(ValueError, match="1 missing: params/pool/power"):
        load(file, options=options)
    with pytest.raises(ValueError, match="params/pool/power must be made anew: pass key"):
        load(file, options=options, new=["params/pool/.*"])
    variables = load(file, options=options, new=["params/pool/.*"], key=jax.random.key(0)).variables
    assert variables["params"]["pool"]["power"] == 3
    assert warnings[-1].endswith("made anew, since the file lacks them: params/pool/power")


def hugging_face_resnet(state):
    renamed = {}
    for name, array in state.items():
        new = re.sub(r"^conv1\.", "resnet.embedder.embedder.convolution.", name)
        new = re.sub(r"^bn1\.", "resnet.embedder.embedder.normalization.", new)
        new = re.sub(r"^fc\.", "classifier.1.", new)
        new = re.sub(
            r"^layer(\d)\.(\d+)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", new
        )
        new = re.sub(r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution.", new)
        new = re.sub(r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization.", new)
        renamed[
            new.replace("downsample.0", "shortcut.convolution").replace(
                "downsample.1", "shortcut.normalization"
            )
        ] = array
    return renamed


def test_resnets_of_hugging_face_and_of_wrappers_are_the_same(tmp_path, resnet18):
    expected = load(written(tmp_path, resnet18), labels=1000)
    counters = {"bn1.num_batches_tracked": np.array(3)}
    for state in (
        hugging_face_resnet(resnet18),
        {f"module.{name}": array for name, array in {**resnet18, **counters}.items()},
    ):
        got = load(written(tmp_path, state, "other.npz"), labels=1000)
        assert got.model == expected.model
        assert_same(got.variables, expected.variables)


def timm_lite0(state):
    """Renames as timm does: blocks by stage, and norms counted from 1 in the order of the convolutions."""
    numbers = [(number, i, stage[3]) for number, stage in enumerate(LITE0) for i in range(stage[0])]
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    wide = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
    wide |= {"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
    first = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw", "_bn1": "bn1", "_bn2": "bn2"}
    renamed = {}
    for name, array in state.items():
        parts = name.split(".")
        if parts[0] != "_blocks":
            renamed[f"{top[parts[0]]}.{parts[1]}"] = array
            continue
        stage, i, expansion = numbers[int(parts[1])]
        renamed[f"blocks.{stage}.{i}.{(wide if expansion > 1 else first)[parts[2]]}.{parts[3]}"] = array
    return renamed


def test_squeeze_and_excitation_of_timm_is_seen_and_filled(tmp_path, resnet18):
    state = dict(resnet18)
    for stage in range(1, 5):
        wide = 32 * 2**stage
        for name in (f"layer{stage}.0.se", f"layer{stage}.1.se"):
            state |= {
                f"{name}.fc1.weight": np.ones((wide // 16, wide, 1, 1)),
                f"{name}.fc1.bias": np.ones(wide // 16),
            }
            state |= {
                f"{name}.fc2.weight": np.ones((wide, wide // 16, 1, 1)),
                f"{name}.fc2.bias": np.ones(wide),
            }
    model, variables, _ = load(written(tmp_path, state))
    assert model == ResNet(18, norm="running", squeeze=16)
    assert variables["params"]["stage4_block1"]["squeeze"]["linear1"]["kernel"].shape == (512, 32)


def test_resnet12_of_feat_is_found_under_its_names(tmp_path):
    state = model_state("resnet12")
    model, variables, preprocess = load(
        written(tmp_path, {f"encoder.{name}": a for name, a in state.items()})
    )
    assert model == ResNet12(norm="running")
    kernel = variables["params"]["block2"]["layer3"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 1, 2, 3], state["layer2.0.conv3.weight"][3, 2, 0, 1])
    assert preprocess.size == 84


def test_both_namings_of_efficientnet_lite0_are_the_same(tmp_path):
    state = model_state("efficientnet_lite0")
    expected = load(written(tmp_path, state), labels=1000)
    got = load(written(tmp_path, timm_lite0(state), "timm.npz"), labels=1000)
    assert_same(got.variables, expected.variables)
    kernel = expected.variables["params"]["body"]["block3"]["depthwise"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 2, 7], state["_blocks.2._depthwise_conv.weight"][7, 0, 1, 2])
    assert expected.preprocess.mean == pytest.approx((127 / 255,))
    assert expected.preprocess.std == pytest.approx((128 / 255,))


def hugging_face_vit(state, *, new, two):
    """Renames as transformers 5 (`new`) or 4 does, for ViT or (`two`) DINOv2."""
    renamed = {}
    for name, array in state.items():
        target = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        target = re.sub(r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1", target)
        target = target.replace("pos_embed", "embeddings.position_embeddings")
        target = re.sub(r"^norm\.", "layernorm.", target)
        target = target.replace("blocks.", "layers." if new and not two else "encoder.layer.")
        target = re.sub(r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1", target)
        if not two:
            target = target.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
            if not new:
                target = target.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        target = target.replace("attn.proj", "attention.o_proj" if new else "attention.output.dense")
        if "attn.qkv" not in target:
            renamed[target] = array
            continue
        names = (
            ("q_proj", "k_proj", "v_proj") if new else ("attention.query", "attention.key", "attention.value")
        )
        for part, piece in zip(names, np.split(array, 3), strict=True):
            renamed[target.replace("attn.qkv", f"attention.{part}")] = piece
    return renamed


@pytest.mark.parametrize(("name", "two"), [("dino_s16", False), ("dinov2_s14_registers", True)])
def test_transformers_of_dino_and_of_hugging_face_are_the_same(tmp_path, name, two):
    options = VITS[name] | ({"positions": 5} if two else {})
    state = random_state(vit_shapes(**options), seed=5)
    expected = load(written(tmp_path, state))
    assert (expected.model.size, expected.model.patch) == ("small", options["patch"])
    assert expected.model.registers == options.get("registers", 0)
    extra = {"mask_token": random_array("mask_token", (1, 384), 5)} if two else {}
    timm = {name.replace("register_tokens", "reg_token"): array for name, array in state.items()}
    hugging_face = [hugging_face_vit(state | extra, new=new, two=two) for new in (False, True)]
    for other in (timm, *hugging_face, {f"backbone.{name}": array for name, array in state.items()}):
        got = load(written(tmp_path, other, "other.npz"))
        assert got.model == expected.model
        assert_same(got.variables, expected.variables)


def test_a_transformer_whose_photos_nobody_knows_is_loaded_with_a_warning(tmp_path, warnings):
    state = random_state(vit_shapes(**VITS["dino_s16"]), seed=5)
    load(written(tmp_path, state))
    assert not warnings
    load(written(tmp_path, state | {"head.weight": np.ones((3, 384)), "head.bias": np.ones(3)}))
    assert "those of Google and timm's augreg have dataclasses.replace" in warnings[-1]


def test_a_lost_key_of_an_attention_is_listed(tmp_path):
    state = hugging_face_vit(random_state(vit_shapes(**VITS["dino_s16"]), seed=5), new=False, two=False)
    state.pop("encoder.layer.4.attention.attention.key.weight")
    with pytest.raises(
        ValueError, match=r"1 missing: params/block5/attention/qkv/kernel; 2 left over: blocks.4.attn.q"
    ):
        load(written(tmp_path, state))


def test_prepared_photos_have_a_side_of_whole_patches(tmp_path):
    state = random_state(vit_shapes(width=384, blocks=12, patch=14, positions=4, layer_scale=True), seed=5)
    model, variables, preprocess = load(written(tmp_path, state), labels=3, key=jax.random.key(0))
    assert preprocess.size == 224
    photos = jnp.asarray(random_photos("dinov2_s14", count=1).transpose(0, 2, 3, 1))
    logits, _ = jax.eval_shape(lambda v: model.apply(v, photos, statistics="running"), variables)
    assert logits.shape == (1, 3)


def test_importing_the_loader_imports_no_other_framework():
    import subprocess

    code = (
        "import sys, fsl_jax.models.pretrained; "
        "print([name for name in ('torch', 'tensorflow', 'huggingface_hub') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
