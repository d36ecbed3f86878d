import collections
import os
import pickle
import struct

import numpy as np
import pytest
from absl import logging
from PIL import Image

from fsl_jax.config import base_config
from fsl_jax.data.load import load_split
from fsl_jax.data.prepare import prepare
from fsl_jax.data.source import load_source, skipped_by
from fsl_jax.data.sources import mini_imagenet

EVERYTHING = "train+val+test"
LABELS = {"train": ("n01532829", "n01558993"), "val": ("n01855672",), "test": ("n01930112",)}
"""Two photos of each label."""
FIRST = {"train": 0, "val": 100, "test": 200}
"""The value of all pixels of a split's first array; the next has one more."""


def load(root, split=EVERYTHING, **options):
    return mini_imagenet.load(root, split, **{"check_counts": False} | options)


def rows_of(split):
    return [(f"{label}0000000{photo}.jpg", label) for label in LABELS[split] for photo in (5, 7)]


def write_list(file, rows):
    file.parent.mkdir(exist_ok=True)
    file.write_text("filename,label\n" + "".join(f"{name},{label}\n" for name, label in rows))


def write_lists(root, folder=""):
    (root / "images").mkdir()
    for split in LABELS:
        write_list(root / folder / f"{split}.csv", rows_of(split))
        for name, _ in rows_of(split):
            Image.new("RGB", (6, 4), (10, 20, 30)).save(root / "images" / name)


def write_folders(root):
    for split in LABELS:
        for name, label in rows_of(split):
            (root / split / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), (10, 20, 30)).save(root / split / label / name)


def arrays(split, side=4):
    """Makes two arrays a label; all the pixels of one have the same value."""
    values = FIRST[split] + np.arange(2 * len(LABELS[split]), dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (len(values), side, side, 3)).copy()


def cache(split, **kind):
    """Makes the content of a cache, with the photos of its labels by turns: label 0 has the rows 0, 2, ..."""
    count = len(LABELS[split])
    rows = {label: list(range(i, 2 * count, count)) for i, label in enumerate(LABELS[split])}
    return {"image_data": arrays(split, **kind), "class_dict": rows}


def write_caches(root, protocol=pickle.HIGHEST_PROTOCOL, **kind):
    for split in LABELS:
        (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(cache(split, **kind), protocol))


def numbered_file(root, split):
    return root / f"miniImageNet_category_split_{'train_phase_train' if split == 'train' else split}.pickle"


NUMBERS = {"train": [0, 0, 63, 63], "val": [64, 64], "test": [80, 80]}


def write_numbered(root):
    for split, labels in NUMBERS.items():
        numbered_file(root, split).write_bytes(python2(arrays(split), labels))


def python2(images, labels):
    """Writes {"data": images, "labels": labels} by hand, as protocol 2 of Python 2 and its NumPy did."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    )
    shape = b"(" + b"".join(map(number, images.shape)) + b"t"
    array += b"(" + number(1) + shape + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def labels_by_split(root):
    return {split: load(root, split).label.names for split in LABELS}


def values(table):
    """Gives (label, value of its pixels) of each row."""
    assert all(len(np.unique(image)) == 1 for image in table.images)
    return [
        (table.label.names[code], int(image[0, 0, 0]))
        for code, image in zip(table.label.codes, table.images, strict=True)
    ]


@pytest.mark.parametrize("folder", ["", "splits", "split", "ravi", "Ravi"])
def test_lists_give_photos_and_labels_of_each_split(tmp_path, folder):
    write_lists(tmp_path, folder)
    assert labels_by_split(tmp_path) == LABELS
    train = load(tmp_path, "train")
    assert train.label.codes.tolist() == [0, 0, 1, 1]
    assert train.path.tolist() == [
        "images/n0153282900000005.jpg",
        "images/n0153282900000007.jpg",
        "images/n0155899300000005.jpg",
        "images/n0155899300000007.jpg",
    ]
    assert train.file(3) == tmp_path / "images/n0155899300000007.jpg"
    assert train.images is None


def test_folders_give_photos_and_labels_of_each_split(tmp_path):
    write_folders(tmp_path)
    assert labels_by_split(tmp_path) == LABELS
    table = load(tmp_path, "test")
    assert table.path.tolist() == [f"test/n01930112/n019301120000000{photo}.jpg" for photo in (5, 7)]
    assert table.file(1).is_file()


def test_what_is_no_photo_in_the_folders_is_left_out_and_listed(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: told.append(message % values))
    write_folders(tmp_path)
    (tmp_path / "test/n01930112/._n0193011200000005.jpg").write_bytes(b"")
    (tmp_path / "test/n01930112/readme.txt").write_text("")
    assert len(load(tmp_path, "test")) == 2
    assert "2 files are left out" in told[0]
    assert skipped_by("mini_imagenet", tmp_path, {}) == [
        ("test/n01930112/._n0193011200000005.jpg", "a stub that macOS adds to archives"),
        ("test/n01930112/readme.txt", "no photo by its extension"),
    ]


def test_other_forms_leave_nothing_out(tmp_path):
    write_caches(tmp_path)
    assert skipped_by("mini_imagenet", tmp_path, {"check_counts": False}) == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_caches_give_arrays_whose_labels_are_found_by_row(tmp_path, protocol):
    write_caches(tmp_path, protocol)
    assert labels_by_split(tmp_path) == LABELS
    table = load(tmp_path, "train")
    assert (table.images.shape, table.images.dtype, table.path) == ((4, 4, 4, 3), np.uint8, None)
    # The labels take turns in the file, and are sorted here.
    assert values(table) == [("n01532829", 0), ("n01532829", 2), ("n01558993", 1), ("n01558993", 3)]


def test_the_other_name_of_the_validation_cache_is_known(tmp_path):
    write_caches(tmp_path)
    (tmp_path / "mini-imagenet-cache-val.pkl").rename(tmp_path / "mini-imagenet-cache-validation.pkl")
    assert labels_by_split(tmp_path) == LABELS


def test_pickles_of_python_2_give_arrays_with_their_numbers_as_labels(tmp_path):
    write_numbered(tmp_path)
    assert labels_by_split(tmp_path) == {"train": ("00", "63"), "val": ("64",), "test": ("80",)}
    assert values(load(tmp_path)) == [
        ("00", 0),
        ("00", 1),
        ("63", 2),
        ("63", 3),
        ("64", 100),
        ("64", 101),
        ("80", 200),
        ("80", 201),
    ]


def test_hand_written_python_2_pickles_are_what_pickle_reads():
    content = pickle.loads(python2(arrays("test"), [80, 80]), encoding="latin1")
    np.testing.assert_array_equal(content["data"], arrays("test"))
    assert content["labels"] == [80, 80]


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([0, 1], "n01"),
        (np.array([0, 1]), "n01"),
        (np.array([0, 1], ">i4"), np.str_("n01")),
        ([np.int64(1), np.int32(0)], np.bytes_(b"n01")),
    ],
)
def test_rows_and_labels_may_be_of_numpy(tmp_path, protocol, rows, name):
    content = {"image_data": arrays("test"), "class_dict": collections.OrderedDict({name: rows})}
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(content, protocol))
    assert values(load(tmp_path, "test")) == [("n01", 200), ("n01", 201)]


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_in_fortran_order_keep_their_pixels(tmp_path, protocol):
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    content = {"data": np.asfortranarray(images), "labels": np.array([80, 80])}
    numbered_file(tmp_path, "test").write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_array_equal(load(tmp_path, "test").images, images)


@pytest.mark.parametrize("write", [write_lists, write_folders, write_caches, write_numbered])
def test_splits_share_no_label_and_join(tmp_path, write):
    write(tmp_path)
    by_split = labels_by_split(tmp_path)
    everything = load(tmp_path)
    assert sorted(name for names in by_split.values() for name in names) == list(everything.label.names)
    assert [(everything.split == split).sum() for split in LABELS] == [4, 2, 2]
    assert load(tmp_path, "val+test").label.names == by_split["val"] + by_split["test"]


@pytest.mark.parametrize("write", [write_lists, write_folders, write_caches, write_numbered])
@pytest.mark.parametrize("gigabytes", [4.0, 0.0])
def test_a_run_reads_photos_in_its_own_size(tmp_path, write, gigabytes, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path)
    config = base_config().data
    config.update({"source": "mini_imagenet", "root": str(tmp_path), "size": 5, "resident_gb": gigabytes})
    config.mini_imagenet.check_counts = False
    table = load_split(config, "train")
    assert table.label.codes.tolist() == [0, 0, 1, 1]
    assert table.images is None or table.images.shape == ((4, 5, 5, 3) if gigabytes else (4, 4, 4, 3))


def test_arrays_of_another_size_are_fitted(tmp_path):
    write_caches(tmp_path, side=4)
    config = base_config().data
    config.update({"source": "mini_imagenet", "root": str(tmp_path), "size": 8})
    config.mini_imagenet.check_counts = False
    table = load_split(config, "test")
    assert table.images.shape == (2, 8, 8, 3)
    assert values(table) == [("n01930112", 200), ("n01930112", 201)]


def test_one_split_needs_only_its_own_pickle(tmp_path):
    write_caches(tmp_path)
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(b"no pickle")
    (tmp_path / "mini-imagenet-cache-val.pkl").unlink()
    assert load(tmp_path, "test").label.names == LABELS["test"]
    with pytest.raises(ValueError, match=r"mini-imagenet-cache-train\.pkl: truncated or damaged"):
        load(tmp_path, "train")


def test_one_split_needs_only_its_own_photos(tmp_path):
    write_lists(tmp_path)
    for name, _ in rows_of("train"):
        (tmp_path / "images" / name).unlink()
    (tmp_path / "val.csv").unlink()
    assert load(tmp_path, "test").label.names == LABELS["test"]


def test_one_split_needs_only_its_own_folder(tmp_path):
    write_folders(tmp_path)
    for name, label in rows_of("train"):
        (tmp_path / "train" / label / name).unlink()
    assert load(tmp_path, "test").label.names == LABELS["test"]


def test_a_label_that_another_list_has_too_is_refused_though_its_photos_are_not_read(tmp_path):
    write_lists(tmp_path)
    write_list(tmp_path / "val.csv", [("n0153282900000009.jpg", "n01532829")])
    message = r"1 labels, such as 'n01532829', are in train and in val"
    with pytest.raises(ValueError, match=message):
        load(tmp_path, "train")


def test_a_label_that_another_folder_has_too_is_refused_though_its_photos_are_not_read(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "train" / "n01930112").mkdir()
    with pytest.raises(ValueError, match="such as 'n01930112', are in test and in train"):
        load(tmp_path, "test")


def test_a_label_in_two_pickles_is_refused_where_both_are_read(tmp_path):
    write_numbered(tmp_path)
    numbered_file(tmp_path, "val").write_bytes(python2(arrays("val"), [63, 64]))
    assert load(tmp_path, "val").label.names == ("63", "64")
    with pytest.raises(ValueError, match="such as '63', are in train and in val"):
        load(tmp_path, "train+val")


@pytest.fixture
def published(monkeypatch):
    """Publishes the small set that these tests write."""
    counts = {split: len(names) for split, names in LABELS.items()}
    monkeypatch.setattr(mini_imagenet, "LABELS", counts)
    monkeypatch.setattr(mini_imagenet, "PHOTOS", 2)
    return counts


def test_the_published_counts_are_64_16_and_20_labels_of_600_photos(tmp_path):
    for split, count in {"train": 64, "val": 16, "test": 20}.items():
        content = {
            "image_data": np.zeros((600 * count, 1, 1, 3), np.uint8),
            "class_dict": {f"{split}{i}": list(range(600 * i, 600 * i + 600)) for i in range(count)},
        }
        (tmp_path / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))
    table = mini_imagenet.load(tmp_path, EVERYTHING)
    assert [(table.split == split).sum() for split in LABELS] == [38_400, 9_600, 12_000]
    assert (table.label.counts() == 600).all()


@pytest.mark.parametrize("write", [write_lists, write_folders, write_caches, write_numbered])
def test_a_part_of_the_set_is_refused_unless_it_is_asked_for(tmp_path, write):
    write(tmp_path)
    message = "found 2 train labels, expected 64 as published.*check_counts=False"
    with pytest.raises(ValueError, match=message):
        load_source("mini_imagenet", tmp_path, "train", {})
    assert len(load_source("mini_imagenet", tmp_path, "train", {"check_counts": False})) == 4


@pytest.mark.parametrize("write", [write_lists, write_folders, write_caches, write_numbered])
def test_every_split_that_is_read_is_counted(tmp_path, write, published):
    write(tmp_path)
    assert len(load(tmp_path, check_counts=True)) == 8
    published["test"] = 3
    assert len(load(tmp_path, "train+val", check_counts=True)) == 6
    with pytest.raises(ValueError, match="found 1 test labels, expected 3 as published"):
        load(tmp_path, check_counts=True)


def test_the_photos_of_each_label_are_counted(tmp_path, published):
    write_lists(tmp_path)
    write_list(tmp_path / "train.csv", rows_of("train")[:3])
    with pytest.raises(
        ValueError, match="found 1 photos of train label 'n01558993', expected 2 as published"
    ):
        load(tmp_path, check_counts=True)


@pytest.mark.parametrize(
    ("split", "wrong", "expected"),
    [("train", [0, 0, 64, 64], "64, expected 0 to 63"), ("val", [63, 63], "63, expected 64 to 79")],
)
def test_the_number_of_a_label_of_another_split_is_refused(tmp_path, published, split, wrong, expected):
    write_numbered(tmp_path)
    numbered_file(tmp_path, split).write_bytes(python2(arrays(split), wrong))
    with pytest.raises(ValueError, match=f"{split} has label {expected} as published"):
        load(tmp_path, split, check_counts=True)
    assert len(load(tmp_path, split)) == len(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,class\na.jpg,n01\n", "no column 'label'; expected the columns filename,label"),
        ("", "no column 'filename'"),
        ("filename,label\n", "has no rows"),
        ("filename,label\nn0153282900000005.jpg,\n", r"line 2 is .*; expected label such as n01532829"),
        ("filename,label\n../a.jpg,n01\n", r"line 2 is .*; expected filename such as n0153282900000005\.jpg"),
        ("filename,label\na.jpg,n01\na.jpg,n02\n", "line 3 is .*; expected another filename than in line 2"),
        ('filename,label\n"' + "a" * 200_000, "is no regular csv file"),
    ],
)
def test_says_which_line_of_a_list_is_wrong(tmp_path, text, message):
    write_lists(tmp_path)
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, "val")
    assert str(tmp_path / "val.csv") in str(caught.value)


def test_a_listed_photo_that_is_missing_is_named(tmp_path):
    write_lists(tmp_path)
    for name, _ in rows_of("train")[1:3]:
        (tmp_path / "images" / name).unlink()
    with pytest.raises(
        ValueError,
        match=r"train\.csv: line 3 is 'n0153282900000007\.jpg n01532829'; expected a photo in .*, which lacks 2 of 4",
    ):
        load(tmp_path, "train")


def test_says_what_was_looked_for_and_what_to_get(tmp_path):
    with pytest.raises(ValueError, match="needs a root folder; get train"):
        load(None)
    for form in (
        r"train\.csv in it or in splits/, split/, ravi/",
        r"mini-imagenet-cache-train\.pkl",
        r"miniImageNet_category_split_train_phase_train\.pickle",
        r"train/",
        r"get train\.csv, val\.csv and test\.csv of https://github\.com",
    ):
        with pytest.raises(ValueError, match=f"none of its forms is in .*{form}"):
            load(tmp_path)
    with pytest.raises(ValueError, match="mini_imagenet has to be got by hand: get train"):
        prepare("mini_imagenet", tmp_path, {})


def test_says_which_file_of_a_split_is_missing(tmp_path):
    write_lists(tmp_path, "splits")
    (tmp_path / "splits/val.csv").unlink()
    with pytest.raises(ValueError, match=r"no splits/val\.csv in .*, where splits/train\.csv and .* is; get"):
        load(tmp_path)
    (tmp_path / "images").rename(tmp_path / "photos")
    with pytest.raises(ValueError, match="no folder images with photos"):
        load(tmp_path, "train")


def test_folders_without_photos_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"no photo in a label's folder in .*train"):
        load(tmp_path, "train")


@pytest.mark.parametrize("split", ["valid", "train+", "", "train,val"])
def test_refuses_a_split_that_does_not_exist(tmp_path, split):
    write_folders(tmp_path)
    with pytest.raises(ValueError, match=r"split is .*; expected train, val, test"):
        load(tmp_path, split)


class Call:
    """Is pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["mini-imagenet-cache-test.pkl", "miniImageNet_category_split_test.pickle"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_else_is_refused_before_the_call(tmp_path, name, protocol):
    made = tmp_path / "made"
    content = {
        "image_data": Call(os.mkdir, str(made)),
        "data": arrays("test"),
        "class_dict": {},
        "labels": [],
    }
    (tmp_path / name).write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=rf"{name}: refused: it asks for '{os.mkdir.__module__}\.mkdir'"):
        load(tmp_path, "test")
    assert not made.exists()
    pickle.loads(pickle.dumps(content, protocol))  # as others would read it
    assert made.is_dir()


@pytest.mark.parametrize(
    "call", [Call(eval, "1"), Call(getattr, 1, "real"), Call(np.load, "x"), Call(set, [])]
)
def test_what_is_no_part_of_plain_arrays_is_refused_by_name(tmp_path, call):
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(call))
    function = call.call[0]
    with pytest.raises(ValueError, match=rf"refused: it asks for '.*{function.__name__}'"):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("images", "kind"),
    [(np.array([None], object), "O8"), (np.zeros(1, [("a", object)]), "V8"), (np.zeros(1, "M8[s]"), "M8")],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_objects_are_refused(tmp_path, images, kind, protocol):
    content = {"image_data": images, "class_dict": {}}
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=f"refused: it has an array of '{kind}'"):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_dict": {"n01": [0, 1], "n02": [1]}}, "class_dict has 3 rows; expected each of 0 to 1 once"),
        ({"class_dict": {"n01": [0]}}, "class_dict has 1 rows; expected each of 0 to 1 once"),
        ({"class_dict": {"n01": [0, 2]}}, "class_dict has 2 rows; expected each of 0 to 1 once"),
        ({"class_dict": {"n01": [-1, 0]}}, "class_dict has 2 rows"),
        ({"class_dict": {(1, 2): [0, 1]}}, r"it has the label \(1, 2\); expected text or a whole number"),
        ({"class_dict": [0, 1]}, r"truncated or damaged \(AttributeError"),
        (
            {"image_data": np.zeros((2, 4, 4, 3))},
            r"is float64 \[2, 4, 4, 3\]; expected uint8 \[photos, height",
        ),
        ({"image_data": np.zeros((2, 4, 4), np.uint8)}, r"is uint8 \[2, 4, 4\]; expected"),
        ({"image_data": [[1]]}, "is list; expected uint8"),
    ],
)
def test_wrong_content_of_a_cache_is_described(tmp_path, change, message):
    content = {"image_data": arrays("test"), "class_dict": {"n01": [0, 1]}} | change
    file = tmp_path / "mini-imagenet-cache-test.pkl"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, "test")
    assert str(file) in str(caught.value)


def test_labels_that_are_not_one_a_photo_are_refused(tmp_path):
    numbered_file(tmp_path, "test").write_bytes(python2(arrays("test"), [80, 80, 81]))
    with pytest.raises(ValueError, match="2 photos and 3 labels"):
        load(tmp_path, "test")


@pytest.mark.parametrize("content", [{}, {"data": 1}, [1, 2], None])
def test_another_pickle_is_refused(tmp_path, content):
    numbered_file(tmp_path, "test").write_bytes(pickle.dumps(content))
    with pytest.raises(
        ValueError, match="not the published content; expected a dict with 'data' and 'labels'"
    ):
        load(tmp_path, "test")


@pytest.mark.parametrize("length", [0, 1, 20, 100, 150, -1])
def test_a_pickle_that_breaks_off_is_refused(tmp_path, length):
    numbered_file(tmp_path, "test").write_bytes(python2(arrays("test"), [80, 80])[:length])
    with pytest.raises(ValueError, match=r"test\.pickle: truncated or damaged"):
        load(tmp_path, "test")


def test_the_real_set_has_the_published_counts(real_data):
    table = mini_imagenet.load(real_data("mini_imagenet"), EVERYTHING)
    assert [(table.split == split).sum() for split in LABELS] == [38_400, 9_600, 12_000]
