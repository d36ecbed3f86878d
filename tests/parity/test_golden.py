"""Networks against PyTorch: every block and the output, on the same random weights and random statistics.

The golden files were written by make_golden.py with PyTorch networks in the names of FEAT (ResNet-12), torchvision and
efficientnet-lite-pytorch, and with transformers' ViTModel, Dinov2Model and Dinov2WithRegistersModel.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.random_weights import VITS, model_state, random_photos, stored

from fsl_jax.models.pretrained import load

GOLDEN = Path(__file__).parent / "golden"
LEAST_AGREEMENT = 1e-4


def relative_error(ours, expected):
    return float(np.abs(np.asarray(ours, np.float64) - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Runs a model on the photos of its golden file: (outputs by name, golden by name)."""
    done = {}

    def run(name):
        if name not in done:
            file = tmp_path_factory.mktemp("weights") / f"{name}.npz"
            np.savez(file, **model_state(name))
            labels = None if name in VITS or name == "resnet12" else 1000
            model, variables, _ = load(file, labels=labels)
            done[name] = (
                forward(model, variables, labels, random_photos(name)),
                dict(np.load(GOLDEN / f"{name}.npz")),
            )
            file.unlink()
        return done[name]

    return run


def forward(model, variables, labels, photos):
    def seen(variables, images):
        body = model if labels is None else model.body
        inner = variables if labels is None else {name: part["body"] for name, part in variables.items()}
        embedding, intermediates = body.apply(inner, images, statistics="running")
        heads = {} if labels is None else {"logits": model.apply(variables, images, statistics="running")[0]}
        return {**intermediates, **heads, "embedding": embedding}

    images = jnp.asarray(photos.transpose(0, 2, 3, 1))
    return {name: np.asarray(array) for name, array in jax.jit(seen)(variables, images).items()}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet12", 4),
        ("resnet18", 8),
        ("resnet50", 16),
        ("efficientnet_lite0", 16),
        ("dino_s16", 12),
        ("dinov2_s14", 12),
    ],
)
def test_every_block_and_the_output_agree_with_pytorch(outputs, name, blocks):
    ours, golden = outputs(name)
    assert sum("block" in key for key in golden) == blocks
    errors = {key: relative_error(stored(ours[key]), expected) for key, expected in golden.items()}
    assert max(errors.values()) < LEAST_AGREEMENT, errors


def test_registers_and_antialiased_positions_agree_with_transformers(outputs):
    ours, golden = outputs("dinov2_s14_registers")
    for key, expected in golden.items():
        assert relative_error(stored(ours[key]), expected) < LEAST_AGREEMENT, key


def test_golden_outputs_vary_so_that_agreement_means_something(outputs):
    _, golden = outputs("resnet18")
    first, second = golden["embedding"].reshape(2, 512)
    assert relative_error(first, second) > 0.1


@pytest.mark.parametrize("name", ["resnet12", "resnet18", "efficientnet_lite0", *VITS])
def test_golden_files_are_what_pytorch_gives_today(name):
    pytest.importorskip("torch", reason="PyTorch is not installed; the golden files stand for it")
    if name in VITS:
        pytest.importorskip(
            "transformers", reason="transformers is not installed; the golden files stand for it"
        )
    from make_golden import outputs as pytorch_outputs

    golden = np.load(GOLDEN / f"{name}.npz")
    for key, array in pytorch_outputs(name).items():
        assert relative_error(stored(array), golden[key]) < 1e-5, key
