import numpy as np
import pytest
from absl import logging
from PIL import Image

from fsl_jax.data.sources import image_folder


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: messages.append(message % values))
    return messages


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / path)
    return root


def ten_labels(root):
    return make(root, *(f"label{i}/{j}.png" for i in range(10) for j in range(3)))


def test_folders_are_labels_and_nested_folders_are_joined(tmp_path):
    make(tmp_path, "bags/tote/a.jpg", "bags/clutch/b.png", "shoes/c.jpg")
    table = image_folder.load(tmp_path, "train+val+test")
    assert table.label.names == ("bags/clutch", "bags/tote", "shoes")
    assert table.path.tolist() == ["bags/clutch/b.png", "bags/tote/a.jpg", "shoes/c.jpg"]
    assert table.file(2) == tmp_path / "shoes" / "c.jpg"


def test_every_extension_counts_whatever_its_case(tmp_path):
    make(
        tmp_path,
        *(
            f"a/{i}.{end}"
            for i, end in enumerate(["jpg", "JPEG", "Png", "webp", "bmp", "gif", "tif", "TIFF"])
        ),
    )
    assert len(image_folder.load(tmp_path, "train+val+test")) == 8


def test_folders_named_as_splits_are_the_splits(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "valid/a/2.jpg", "test/c/d/3.jpg")
    by_split = {split: image_folder.load(tmp_path, split).label.names for split in ("train", "val", "test")}
    assert by_split == {"train": ("a", "b"), "val": ("a",), "test": ("c/d",)}


def test_labels_are_dealt_whole_and_by_the_seed(tmp_path):
    ten_labels(tmp_path)
    labels = {
        split: set(image_folder.load(tmp_path, split).label.names) for split in ("train", "val", "test")
    }
    assert {split: len(names) for split, names in labels.items()} == {"train": 6, "val": 2, "test": 2}
    assert len(set.union(*labels.values())) == 10
    assert image_folder.load(tmp_path, "train", split_seed=1).label.names != tuple(sorted(labels["train"]))
    assert len(image_folder.load(tmp_path, "test", fractions=(0.5, 0.0, 0.5)).label.names) == 5


def test_what_is_no_photo_is_left_out_counted_and_listed(tmp_path, warned):
    make(tmp_path, "a/1.jpg", "__MACOSX/a/1.jpg", "a/._1.jpg", ".hidden/a/1.jpg", "loose.jpg")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"")
    table = image_folder.load(tmp_path, "train+val+test")
    assert table.path.tolist() == ["a/1.jpg"]
    reasons = dict(image_folder.skipped(tmp_path))
    assert reasons == {
        "__MACOSX/a/1.jpg": "a stub that macOS adds to archives",
        "a/._1.jpg": "a stub that macOS adds to archives",
        ".hidden/a/1.jpg": "hidden",
        "a/Thumbs.db": "no photo by its extension",
        "loose.jpg": "not in a label's folder",
    }
    assert "5 files are left out" in warned[0]
    assert "2 a stub" in warned[0]


def test_rare_labels_are_dropped_before_labels_are_dealt(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(logging, "info", lambda message, *values: told.append(message % values))
    make(ten_labels(tmp_path), "rare/1.jpg")
    everything = image_folder.load(tmp_path, "train+val+test", min_photos=2)
    assert "rare" not in everything.label.names
    assert len(everything) == 30
    assert told == ["image_folder: 1 labels with fewer than 2 photos are dropped, such as rare"]
    with pytest.raises(ValueError, match="min_photos is 9, and no label has more than 3"):
        image_folder.load(tmp_path, "train", min_photos=9)


def test_rare_means_rare_in_its_split(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg", "test/b/2.jpg", "test/b/3.jpg")
    table = image_folder.load(tmp_path, "train+test", min_photos=2)
    assert sorted(table.path) == ["test/b/2.jpg", "test/b/3.jpg", "train/a/1.jpg", "train/a/2.jpg"]


def test_the_order_is_the_same_each_time(tmp_path):
    ten_labels(tmp_path)
    first, second = (image_folder.load(tmp_path, "train+val+test") for _ in range(2))
    np.testing.assert_array_equal(first.path, second.path)
    assert first.path.tolist() == sorted(first.path)


def test_links_are_followed_and_a_link_to_a_folder_above_ends(tmp_path):
    make(tmp_path / "elsewhere", "1.jpg")
    make(tmp_path / "set", "a/1.jpg")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    assert image_folder.load(tmp_path / "set", "train+val+test").label.names == ("a", "b")


def test_says_what_to_do_about_a_wrong_folder(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        image_folder.load(tmp_path / "gone", "train")
    with pytest.raises(ValueError, match="no folder None"):
        image_folder.load(None, "train")
    with pytest.raises(ValueError, match="<label>/<photo>"):
        image_folder.load(tmp_path, "train")
    make(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(ValueError, match="no photo in a label's folder"):
        image_folder.load(tmp_path, "train")


def test_splits_beside_labels_are_refused(tmp_path):
    make(tmp_path, "train/a/1.jpg", "dresses/1.jpg")
    with pytest.raises(ValueError, match="train beside 'dresses'"):
        image_folder.load(tmp_path, "train")
