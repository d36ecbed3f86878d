import gzip
import struct

import numpy as np
import pytest

from fsl_jax.data.sources import fashion_mnist


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "PARTS", {"train": 60, "t10k": 20})
    monkeypatch.setattr(fashion_mnist, "VAL_PHOTOS", 10)


@pytest.fixture
def files(tmp_path):
    """A small set in the published form: the label of photo i is i mod 10, and its first pixel is i."""
    start = 0
    for part, count in {"train": 60, "t10k": 20}.items():
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 0] = np.arange(start, start + count)
        labels = (np.arange(start, start + count) % 10).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
        start += count
    return tmp_path


def test_the_official_split_keeps_the_last_training_photos_for_validation(files):
    first_pixels = {
        split: sorted(fashion_mnist.load(files, split).images[:, 0, 0, 0])
        for split in ("train", "val", "test")
    }
    assert first_pixels == {"train": list(range(50)), "val": list(range(50, 60)), "test": list(range(60, 80))}


def test_photos_keep_their_labels(files):
    table = fashion_mnist.load(files, "train+val+test")
    assert table.images.shape == (80, 28, 28, 1)
    for image, code in zip(table.images, table.label.codes, strict=True):
        assert table.label.names[code] == fashion_mnist.LABELS[image[0, 0, 0] % 10]


def test_labels_can_be_dealt_for_few_shot_learning(files):
    labels = [
        set(fashion_mnist.load(files, split, split_rule="labels").label.names)
        for split in ("train", "val", "test")
    ]
    assert [len(names) for names in labels] == [6, 2, 2]
    assert set.union(*labels) == set(fashion_mnist.LABELS)


def test_says_what_to_install_or_where_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="Debian package dataset-fashion-mnist"):
        fashion_mnist.load(tmp_path, "train")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        fashion_mnist.load(None, "train")


def test_refuses_files_that_are_cut_or_of_another_set(files):
    with pytest.raises(ValueError, match="split_rule is 'random'"):
        fashion_mnist.load(files, "train", split_rule="random")
    file = files / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    for data in (whole[:-1], whole[:9], b"", b"\x1f\x8b" + whole):
        file.write_bytes(data)
        with pytest.raises(ValueError, match="no complete idx file"):
            fashion_mnist.load(files, "train")
    file.write_bytes(idx(np.zeros((59, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match=r"images \(59, 28, 28\)"):
        fashion_mnist.load(files, "train")


def test_the_real_set_has_the_published_counts(monkeypatch):
    monkeypatch.undo()
    if not fashion_mnist.DEBIAN_FOLDER.is_dir():
        pytest.skip(f"Fashion-MNIST is not at {fashion_mnist.DEBIAN_FOLDER}; install dataset-fashion-mnist")
    table = fashion_mnist.load(None, "train+val+test")
    assert (table.label.counts() == 7_000).all()
    assert [(table.split == split).sum() for split in ("train", "val", "test")] == [55_000, 5_000, 10_000]
