"""Against a small set that TensorFlow Datasets itself prepares, without TensorFlow."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tensorflow_datasets
from PIL import Image

from fsl_jax.data.sources import tfds

NAMES = ["bag", "boot", "coat", "dress", "hat", "shirt"]


class FslJaxTinyShop(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Twelve photos of six labels for training and six for testing; sizes differ."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = tensorflow_datasets.features
        return tensorflow_datasets.core.DatasetInfo(
            builder=self,
            features=features.FeaturesDict(
                {
                    "image": features.Image(shape=(None, None, 3)),
                    "label": features.ClassLabel(names=NAMES),
                    "shelf": features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._photos("train", 12), "test": self._photos("test", 6)}

    def _photos(self, split, count):
        for i in range(count):
            file = io.BytesIO()
            Image.new("RGB", (20, 10 + i), (40 * (i % 6), 0, 0)).save(file, "PNG")
            file.seek(0)
            yield f"{split}{i}", {"image": file, "label": i % 6, "shelf": f"shelf {i % 2}"}

    def _generate_examples(self):
        raise NotImplementedError("splits are given as generators")


NAME = "fsl_jax_tiny_shop"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    assert tfds.prepare(root, name=NAME).startswith(f"{NAME}: 18 photos in {root}")
    return root


def load(root, split, **options):
    return tfds.load(root, split, **{"name": NAME, "side": 8, "fit": "stretch"} | options)


def test_reads_photos_of_any_size_with_their_labels(prepared):
    table = load(prepared, "train+val+test")
    assert table.images.shape == (18, 8, 8, 3)
    assert table.label.names == tuple(NAMES)
    for image, code in zip(table.images, table.label.codes, strict=True):
        np.testing.assert_array_equal(image, np.broadcast_to([40 * code, 0, 0], (8, 8, 3)))


def test_deals_labels_over_all_photos_by_default(prepared):
    labels = [set(load(prepared, split).label.names) for split in ("train", "val", "test")]
    assert len(set.union(*labels)) == sum(map(len, labels)) == 6
    assert sum(len(load(prepared, split)) for split in ("train", "val", "test")) == 18


def test_keeps_its_own_splits_where_they_are_mapped(prepared):
    splits = {"train": "train", "test": "val"}
    assert len(load(prepared, "train", splits=splits)) == 12
    assert len(load(prepared, "val", splits=splits)) == 6


def test_text_can_be_the_label_and_channels_grey(prepared):
    table = load(prepared, "train+val+test", label="shelf", channels=1)
    assert table.label.names == ("shelf 0", "shelf 1")
    assert table.images.shape == (18, 8, 8, 1)


def test_tensorflow_is_not_imported(prepared):
    load(prepared, "train")
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar101"}, "knows no 'cifar101'; did you mean 'cifar10"),
        ({"name": "cifar100"}, "not prepared as array_record .*fsl-jax prepare"),
        ({"label": "lable"}, "no feature 'lable'; .*did you mean 'label'"),
        ({"splits": {"valid": "val"}}, "no split 'valid'; known: test, train"),
    ],
)
def test_says_what_is_wrong(prepared, options, message):
    with pytest.raises(ValueError, match=message):
        load(prepared, "train", **options)
