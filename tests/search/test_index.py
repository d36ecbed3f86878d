"""An index is whole whatever happens to its writers, says what is wrong with it, and holds what was added."""

import errno
import fcntl
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from fsl_jax.data.augment import Preprocess
from fsl_jax.data.table import Coded, Table
from fsl_jax.embedder import Embedder
from fsl_jax.search import _disk
from fsl_jax.search import index as indexes
from fsl_jax.search.index import Index

PREPROCESS = Preprocess(size=16, channels=3, fit="pad", mean=(0.5,), std=(0.5,))
MODEL = {"published": "every fourth pixel", "fit": "pad"}
DIMENSIONS = 48


@jax.jit
def every_fourth_pixel(images):
    return PREPROCESS(images)[:, ::4, ::4].reshape(len(images), -1)


EMBEDDER = Embedder(every_fourth_pixel, PREPROCESS, "digest-of-every-fourth-pixel")


def embeddings_of(ids):
    """Unit rows that follow from the ids, so that a row can be checked whatever was added around it."""
    seeds = [sum(id.encode()) * 1000 + len(id) for id in ids]
    rows = np.array([np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in seeds])
    rows = rows.reshape(-1, DIMENSIONS)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def added(index, new, label="shoe", **changes):
    columns = {
        "ids": new,
        "labels": [label] * len(new),
        "paths": [f"/photos/{id}" for id in new],
        "thumbnails": [id.encode() for id in new],
        "digest": EMBEDDER.digest,
    }
    return index.add(embeddings_of(new), **{**columns, **changes})


def check(index, ids):
    """The index holds these photos in this order, each with its own embedding, path and thumbnail."""
    assert index.ids.tolist() == list(ids)
    assert len(index) == len(ids) == len(index.labels)
    assert index.embeddings.shape == (len(ids), DIMENSIONS)
    if len(ids):
        np.testing.assert_allclose(index.embeddings, embeddings_of(ids), atol=1e-6)
    assert [index.thumbnail(row) for row in range(len(ids))] == [id.encode() for id in ids]
    assert index.paths.tolist() == [f"/photos/{id}" for id in ids]


def files_of(folder):
    return sorted(file.relative_to(folder).as_posix() for file in Path(folder).rglob("*") if file.is_file())


def only_what_counts(folder):
    """No leftover lies in the folder: nothing but what index.json names."""
    state = json.loads((folder / "index.json").read_text())
    expected = {"index.json", "lock"} | ({f"removed/{state['removed']}"} if state["removed"] else set())
    names = ("embeddings.npy", "items.parquet", "thumbnails.bin", "thumbnails.npy")
    expected |= {f"segments/{each['name']}/{name}" for each in state["segments"] for name in names}
    return files_of(folder) == sorted(expected)


@pytest.fixture
def empty(tmp_path):
    return Index.create(tmp_path / "index", embedder=EMBEDDER, model=MODEL)


@pytest.fixture
def index(empty):
    """Two segments, one photo removed."""
    index = added(added(empty, ["a", "b", "c"]), ["d", "e"], label="coat")
    return index.remove(ids=["b"])[0]


def test_what_is_added_is_there_after_opening(empty):
    index = added(added(empty, ["a", "b"]), ["c"], label="coat")
    for opened in (index, Index.open(index.folder)):
        check(opened, ["a", "b", "c"])
        assert opened.labels.tolist() == ["shoe", "shoe", "coat"]
        assert opened.label_codes.tolist() == [1, 1, 0]
        assert opened.model == MODEL
        assert opened.digest == EMBEDDER.digest
        assert opened.preprocess == PREPROCESS
        assert opened.dimensions == DIMENSIONS
        assert opened.calibration is None


def test_the_state_before_a_change_stays_readable(empty):
    before = added(empty, ["a"])
    after, count = added(before, ["b"]).remove(ids=["a"])
    assert count == 1
    check(empty, [])
    check(before, ["a"])
    check(after, ["b"])


def test_embeddings_are_brought_to_length_1(empty):
    columns = {"labels": ["x"], "paths": [""], "thumbnails": [b""], "digest": EMBEDDER.digest}
    index = empty.add(np.full((1, DIMENSIONS), 7.0), ids=["a"], **columns)
    np.testing.assert_allclose(index.embeddings, 1 / np.sqrt(DIMENSIONS), rtol=1e-6)
    assert index.embeddings.dtype == np.float32


def test_one_segment_without_removals_is_a_memory_map(empty):
    assert isinstance(added(empty, ["a", "b"]).embeddings, np.memmap)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "another"}, "of another one .digest another"),
        ({"labels": ["x"]}, "1 labels are given for 2 embeddings"),
        ({"ids": ["a"]}, "1 ids are given for 2 embeddings"),
        ({"labels": ["x", ""]}, "photo 'q' has no label"),
        ({"ids": ["p", "p"]}, "photo 'p' cannot be added: its id is twice"),
        ({"ids": ["p", "a"]}, "photo 'a' cannot be added: its id is in the index already, with label 'shoe'"),
        ({"pixels": ["1", "1"]}, "photo 'q' cannot be added: the same photo as 'p'"),
    ],
)
def test_a_wrong_add_is_refused_whole(index, changes, message):
    with pytest.raises(ValueError, match=message):
        added(index, ["p", "q"], **changes)
    check(Index.open(index.folder), ["a", "c", "d", "e"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "'p' cannot be added: its embedding is all zeros"),
        (np.nan, "not finite"),
        (np.inf, "not finite"),
    ],
)
def test_an_embedding_without_direction_is_refused(empty, value, message):
    with pytest.raises(ValueError, match=message):
        empty.add(
            np.full((1, DIMENSIONS), value),
            ids=["p"],
            labels=["x"],
            paths=[""],
            thumbnails=[b""],
            digest=EMBEDDER.digest,
        )


def test_embeddings_of_another_length_are_refused(empty):
    with pytest.raises(ValueError, match=r"embeddings are \[1, 3\]; expected \[n, 48\]"):
        empty.add(
            np.ones((1, 3)), ids=["p"], labels=["x"], paths=[""], thumbnails=[b""], digest=EMBEDDER.digest
        )


def test_adding_does_not_touch_what_is_there(index):
    def stamps():
        files = sorted((index.folder / "segments").rglob("*.*"))
        return {file: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    before = stamps()
    added(index, ["f"])
    after = stamps()
    assert len(before) == 8
    assert len(after) == 12
    assert {file: after[file] for file in before} == before


def test_removed_photos_are_gone_by_id_and_by_label(index):
    left, count = index.remove(labels=["coat"])
    assert count == 2
    check(left, ["a", "c"])
    left, count = left.remove(ids=["a"], labels=["shoe"])
    assert count == 2
    check(Index.open(left.folder), [])


@pytest.mark.parametrize(
    ("asked_for", "message"),
    [
        ({"ids": ["a", "f"]}, "no id 'f' in the index .*known: a, c, d, e"),
        ({"ids": ["b"]}, "no id 'b'"),
        ({"ids": ["x", "y"]}, "no id 'x' and 1 more"),
        ({"labels": ["shoes"]}, "no label 'shoes' .*did you mean 'shoe'"),
    ],
)
def test_an_unknown_photo_is_named_and_nothing_is_removed(index, asked_for, message):
    with pytest.raises(ValueError, match=message):
        index.remove(**asked_for)
    check(Index.open(index.folder), ["a", "c", "d", "e"])


def test_the_nearest_name_is_found_among_very_many(empty, monkeypatch):
    monkeypatch.setattr(indexes, "COMPARED", 10)
    index = added(empty, [f"{kind}/{number:03d}" for kind in ("boot", "coat") for number in range(40)])
    with pytest.raises(ValueError, match="did you mean 'coat/015'"):
        index.remove(ids=["coat/015x"])


def test_all_can_be_removed_and_added_again(index):
    nothing, count = index.remove(labels=["coat", "shoe"])
    assert count == 4
    check(nothing, [])
    assert files_of(index.folder) == ["index.json", "lock"]
    check(added(nothing, ["a", "b"]), ["a", "b"])


def test_a_stale_writer_keeps_what_others_added(empty):
    first = added(empty, ["a"])
    check(added(empty, ["b"]), ["a", "b"])
    with pytest.raises(ValueError, match="'b' cannot be added: its id is in the index already"):
        added(first, ["b"])


def test_an_empty_add_changes_nothing(empty):
    truth = (empty.folder / "index.json").read_bytes()
    check(added(empty, []), [])
    assert (empty.folder / "index.json").read_bytes() == truth


def test_info_counts(index):
    info = index.info()
    assert (info["photos"], info["labels"], info["segments"], info["removed_photos_on_disk"]) == (4, 2, 2, 1)
    assert info["bytes"] == sum((index.folder / file).stat().st_size for file in files_of(index.folder))
    json.dumps(info)


# Tables of photos.


def table_of(images, labels, paths=None, root=None):
    codes = {"path": np.array(paths, object), "root": root} if paths else {"images": np.stack(images)}
    return Table(source="test", label=Coded.of(labels), split=np.full(len(labels), "train"), **codes)


def photos(count, *, seed=0, side=16):
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


@pytest.fixture
def shop(tmp_path):
    """Four photos of two labels in files, one of them sideways, one broken, one with the pixels of another."""
    folder = tmp_path / "shop"
    folder.mkdir()
    wide = Image.fromarray(np.repeat(photos(1, side=200)[0][:100], 2, axis=0)[:100])
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "wide.png")
    wide.save(folder / "sideways.jpg", exif=exif)
    wide.save(folder / "again.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    names = ["wide.png", "sideways.jpg", "again.png", "broken.jpg"]
    return table_of(None, ["coat", "coat", "coat", "shoe"], names, folder)


def test_a_table_is_embedded_and_added(empty):
    images = photos(11)
    index, done = empty.add_table(table_of(images, ["a"] * 5 + ["b"] * 6), EMBEDDER, block=1)
    assert (done.added, done.unreadable, done.duplicates) == (11, [], [])
    assert index.ids.tolist() == [f"image {row}" for row in range(11)]
    assert index.labels.tolist() == ["a"] * 5 + ["b"] * 6
    expected = (np.stack(images)[:, ::4, ::4].reshape(11, -1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(
        index.embeddings, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
    )


def test_ids_may_be_given(empty):
    index, _ = empty.add_table(table_of(photos(2), ["a", "b"]), EMBEDDER, ids=["x", "y"])
    assert index.ids.tolist() == ["x", "y"]


def test_unreadable_photos_and_the_same_photo_twice_are_named_and_left_out(empty, shop):
    index, done = empty.add_table(shop, EMBEDDER)
    assert index.ids.tolist() == ["wide.png", "sideways.jpg"]
    assert index.paths.tolist() == [str(shop.root / "wide.png"), str(shop.root / "sideways.jpg")]
    assert done.added == 2
    assert [photo for photo, _ in done.unreadable] == ["broken.jpg"]
    assert done.unreadable[0][1].startswith(("broken", "not an image"))
    assert done.duplicates == [("again.png", "the same photo as 'wide.png', of the same label 'coat'")]


def test_the_same_photo_under_another_label_is_another_photo(empty):
    image = photos(1)
    index, _ = empty.add_table(table_of(image, ["a"]), EMBEDDER, ids=["1"])
    index, done = index.add_table(table_of(image, ["b"]), EMBEDDER, ids=["2"])
    assert done.added == 1
    _, done = index.add_table(table_of(image, ["a"]), EMBEDDER, ids=["3"])
    assert done.duplicates == [("3", "the same photo as '1', of the same label 'a'")]


def test_an_id_that_is_there_or_twice_is_named_and_not_even_read(empty, tmp_path):
    Image.fromarray(photos(1)[0]).save(tmp_path / "a.png")
    table = table_of(None, ["x", "x"], ["a.png", "a.png"], tmp_path)
    index, done = empty.add_table(table, EMBEDDER)
    assert done.duplicates == [("a.png", "its id is twice among the new photos")]
    (tmp_path / "a.png").write_bytes(b"")
    index, done = index.add_table(table, EMBEDDER)
    assert (len(index), done.added, done.unreadable) == (1, 0, [])
    assert "already, with label 'x'; remove it first" in done.duplicates[0][1]


def test_a_photo_that_the_model_makes_nothing_of_is_left_out(empty):
    nothing = Embedder(
        jax.jit(lambda images: images[:, ::4, ::4].reshape(len(images), -1) * 1.0),
        PREPROCESS,
        EMBEDDER.digest,
    )
    black = np.zeros((16, 16, 3), np.uint8)
    index, done = empty.add_table(table_of([black, *photos(1)], ["a", "b"]), nothing)
    assert done.unreadable == [("image 0", "its embedding is all zeros")]
    assert index.ids.tolist() == ["image 1"]


def test_another_model_is_refused_before_it_embeds_any_photo(empty, shop):
    def never(images):
        raise AssertionError("embedded")

    message = r"every fourth pixel, fit pad .digest digest-of-ev.*another one .digest other-digest"
    with pytest.raises(ValueError, match=message):
        empty.add_table(shop, Embedder(never, PREPROCESS, "other-digest"))


def test_features_are_refused(empty):
    with pytest.raises(ValueError, match="features in place of photos"):
        empty.add_table(table_of([np.ones((1, 1, 5), np.float32)], ["a"]), EMBEDDER)


@pytest.mark.parametrize(("name", "size"), [("wide.png", (160, 80)), ("sideways.jpg", (80, 160))])
def test_thumbnails_are_upright_and_160_pixels_long(empty, shop, name, size):
    index, _ = empty.add_table(shop, EMBEDDER)
    thumbnail = Image.open(io.BytesIO(index.thumbnail(index.ids.tolist().index(name))))
    assert thumbnail.format == "JPEG"
    assert thumbnail.size == size


def test_thumbnails_lie_on_white_and_small_photos_stay_small(empty, tmp_path):
    clear = np.zeros((20, 10, 4), np.uint8)
    clear[:4, :, 0] = clear[:4, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    index, _ = empty.add_table(table_of(None, ["a"], ["clear.png"], tmp_path), EMBEDDER)
    pixels = np.asarray(Image.open(io.BytesIO(index.thumbnail(0))))
    assert pixels.shape == (20, 10, 3)
    assert pixels[19, 5].min() > 240
    assert pixels[1, 5, 0] > 200 > 100 > pixels[1, 5, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_have_thumbnails_too(tmp_path, channels):
    how = Preprocess(size=16, channels=channels, fit="pad", mean=(0.5,), std=(0.5,))
    embedder = Embedder(jax.jit(lambda images: how(images).reshape(len(images), -1)), how, "d")
    image = np.full((300, 150, channels), 40, np.uint8)
    index = Index.create(tmp_path / "index", embedder=embedder, model=MODEL)
    index, _ = index.add_table(table_of([image], ["a"]), embedder)
    thumbnail = Image.open(io.BytesIO(index.thumbnail(0)))
    assert thumbnail.size == (80, 160)
    assert abs(int(np.asarray(thumbnail).mean()) - 40) < 3


def test_a_file_name_that_is_no_text_is_written_as_one(empty, tmp_path):
    name = os.fsdecode(b"\xff.png")
    Image.fromarray(photos(1)[0]).save(tmp_path / name)
    index, done = empty.add_table(table_of(None, ["a"], [name], tmp_path), EMBEDDER)
    assert done.added == 1
    assert Index.open(index.folder).ids.tolist() == ["\\udcff.png"]


def test_an_interrupted_table_goes_on_where_it_was(empty, monkeypatch):
    monkeypatch.setattr(indexes, "CHUNK", 4)
    table = table_of(photos(10), ["a"] * 10)
    calls = []

    def interrupted(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return every_fourth_pixel(images)

    with pytest.raises(KeyboardInterrupt):
        empty.add_table(table, Embedder(interrupted, PREPROCESS, EMBEDDER.digest), block=1)
    index = Index.open(empty.folder)
    assert len(index) == 8
    index, done = index.add_table(table, EMBEDDER)
    assert (len(index), done.added, len(done.duplicates)) == (10, 2, 8)


# Merging.


def test_many_small_adds_are_merged(empty):
    index = empty
    for number in range(40):
        index = added(index, [f"{number:03d}"])
        assert index.info()["segments"] <= 16
    check(index, [f"{number:03d}" for number in range(40)])
    assert only_what_counts(index.folder)


def test_merging_leaves_large_old_segments_alone(empty):
    index = added(empty, [f"old {number}" for number in range(100)])
    large = index.folder / "segments" / "000001"
    stamp = (large / "embeddings.npy").stat().st_ino
    for number in range(20):
        index = added(index, [f"new {number}"])
    assert (large / "embeddings.npy").stat().st_ino == stamp
    check(index, [f"old {number}" for number in range(100)] + [f"new {number}" for number in range(20)])


def test_removed_photos_stay_removed_over_a_merge(empty):
    index = added(empty, [f"old {number}" for number in range(50)]).remove(ids=["old 7", "old 49"])[0]
    for number in range(15):
        index = added(index, [f"new {number}"])
    index = index.remove(ids=["new 3"])[0]
    index = added(index, ["last"])
    assert index.info()["segments"] == 2
    assert index.info()["removed_photos_on_disk"] == 2
    expected = [f"old {number}" for number in range(50) if number not in (7, 49)]
    check(Index.open(index.folder), [*expected, *(f"new {n}" for n in range(15) if n != 3), "last"])


def test_an_index_that_is_mostly_removed_is_made_small(empty):
    index = added(empty, [f"{number}" for number in range(9)])
    index = index.remove(ids=[f"{number}" for number in range(4)])[0]
    assert index.info()["removed_photos_on_disk"] == 4
    index = index.remove(ids=["4"])[0]
    assert index.info()["removed_photos_on_disk"] == 0
    assert only_what_counts(index.folder)
    check(index, ["5", "6", "7", "8"])


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_copied_more_often_than_the_logarithm(seed):
    rng, sizes, copied, total = np.random.default_rng(seed), [], 0, 0
    for _ in range(2000):
        sizes.append(int(rng.integers(1, 20)))
        total += sizes[-1]
        start = indexes._first_to_merge(sizes, 0)
        if start is not None:
            copied += sum(sizes[start:])
            sizes[start:] = [sum(sizes[start:])]
        assert len(sizes) <= 16
    assert copied < total * np.log2(total)


def test_a_merge_that_fails_leaves_the_add(empty, monkeypatch, caplog):
    index = empty
    for number in range(16):
        index = added(index, [str(number)])

    def full(self, start):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Index, "_write_merged", full)
    index = added(index, ["last"])
    check(Index.open(index.folder), [*map(str, range(16)), "last"])
    assert index.info()["segments"] == 17


def test_an_open_index_survives_a_merge(empty):
    before = added(added(empty, ["a"]), ["b"])
    index = before
    for number in range(20):
        index = added(index, [str(number)])
    assert not (index.folder / "segments" / "000001").exists()
    check(before, ["a", "b"])


def test_opening_while_segments_are_merged_takes_the_new_ones(empty, monkeypatch):
    index = empty
    for number in range(16):
        index = added(index, [str(number)])
    real, calls = indexes.open_segment, []

    def slow(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 3:
            monkeypatch.setattr(indexes, "open_segment", real)
            added(index, ["last"])
            monkeypatch.setattr(indexes, "open_segment", slow)
        return real(*arguments, **keywords)

    monkeypatch.setattr(indexes, "open_segment", slow)
    check(Index.open(index.folder), [*map(str, range(16)), "last"])


def test_no_number_is_used_twice(empty, monkeypatch):
    """A reader that looks for a segment of an old state must not open another one of the same name."""
    monkeypatch.setattr(indexes, "MOST_SEGMENTS", 3)
    index, highest, before = empty, 0, set()
    for number in range(30):
        index = added(index, [str(number)])
        index = index.remove(ids=[str(number)])[0] if number % 4 == 3 else index
        state = json.loads((index.folder / "index.json").read_text())
        names = {each["name"] for each in state["segments"]} | {str(state["removed"])[:6]} - {"None"}
        assert all(int(name) > highest for name in names - before)
        highest, before = max(highest, *map(int, names)), names


def test_the_disk_has_all_of_a_segment_before_it_gets_its_name(empty, monkeypatch):
    happened, fsync, rename, replace = [], os.fsync, os.rename, os.replace

    def synced(handle):
        fsync(handle)
        happened.append(os.fstat(handle).st_ino)

    def renamed(old, new):
        happened.append("segment")
        rename(old, new)

    def replaced(old, new):
        happened.append("truth")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "replace", replaced)
    folder = added(empty, ["a"]).folder
    segment, truth = happened.index("segment"), happened.index("truth")
    new = folder / "segments" / "000001"
    assert {path.stat().st_ino for path in [new, *new.iterdir()]} <= set(happened[:segment])
    assert {(folder / "segments").stat().st_ino, (folder / "index.json").stat().st_ino} <= set(
        happened[segment:truth]
    )
    assert folder.stat().st_ino in happened[truth:]


# What lies there already.


def test_an_index_is_never_overwritten(index):
    with pytest.raises(ValueError, match=r"there is an index in .* already"):
        Index.create(index.folder, embedder=EMBEDDER, model=MODEL)
    check(Index.open(index.folder), ["a", "c", "d", "e"])


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is not empty .it has photo.jpg."):
        Index.create(tmp_path, embedder=EMBEDDER, model=MODEL)
    with pytest.raises(ValueError, match="is a file; expected a new folder"):
        Index.create(tmp_path / "photo.jpg", embedder=EMBEDDER, model=MODEL)


def test_what_a_killed_creation_left_is_no_hindrance(tmp_path):
    (tmp_path / "lock").write_bytes(b"")
    (tmp_path / ".index.json.x1").write_bytes(b"half")
    Index.create(tmp_path, embedder=EMBEDDER, model=MODEL)
    assert only_what_counts(tmp_path)


@pytest.mark.parametrize("place", ["", "missing", "a file"])
def test_no_index_says_so(tmp_path, place):
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no index in .*fsl-jax index build"):
        Index.open(tmp_path / place)


def test_another_format_says_so(index):
    truth = index.folder / "index.json"
    truth.write_text(json.dumps({**json.loads(truth.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="has format 2; this version of fsl_jax reads format 1"):
        Index.open(index.folder)


FILES = [
    "index.json",
    "segments/000001/embeddings.npy",
    "segments/000001/items.parquet",
    "segments/000001/thumbnails.bin",
    "segments/000001/thumbnails.npy",
    "segments/000002/embeddings.npy",
    "removed/000003.npy",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_named(index, file, share):
    damaged = index.folder / file
    damaged.write_bytes(damaged.read_bytes()[: int(damaged.stat().st_size * share)])
    with pytest.raises(ValueError, match="damaged") as error:
        Index.open(index.folder)
    assert Path(file).name in str(error.value)


@pytest.mark.parametrize("file", FILES[1:])
def test_a_missing_file_is_named(index, file):
    (index.folder / file).unlink()
    with pytest.raises(ValueError, match=r"is damaged: .* is missing") as error:
        Index.open(index.folder)
    assert Path(file).name in str(error.value)


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith(".bin")])
def test_garbage_is_named_and_never_another_error(index, file):
    rng, content = random.Random(0), bytearray((index.folder / file).read_bytes())
    (index.folder / file).write_bytes(bytes(rng.randrange(256) for _ in content))
    with pytest.raises(ValueError, match="damaged") as error:
        Index.open(index.folder)
    assert Path(file).name in str(error.value)


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith(".npy")])
def test_a_broken_header_is_no_other_error(index, file):
    content = (index.folder / file).read_bytes()
    (index.folder / file).write_bytes(content.replace(b"}", b"{", 1))
    with pytest.raises(ValueError, match=f"{Path(file).name} is damaged"):
        Index.open(index.folder)


def test_a_single_wrong_byte_in_the_items_is_noticed(index):
    file = index.folder / "segments/000001/items.parquet"
    content = file.read_bytes()
    at = content.index(b"shoe")
    file.write_bytes(content[:at] + b"shop" + content[at + 4 :])
    with pytest.raises(ValueError, match=r"items\.parquet is damaged"):
        Index.open(index.folder)


def test_files_of_another_segment_do_not_fit(index):
    shutil.copy(index.folder / FILES[5], index.folder / FILES[1])
    with pytest.raises(ValueError, match=r"embeddings.npy has float32 \[2, 48\]; expected float32 \[3, 48\]"):
        Index.open(index.folder)


# Disks that cannot be written to.


def test_a_full_disk_at_any_write_leaves_the_index_as_it_was(index, monkeypatch):
    real, errors = os.fsync, []
    for point in range(30):
        calls = []

        def full(handle, calls=calls, point=point):
            calls.append(handle)
            if len(calls) > point:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        try:
            added(index, ["f"])
            break
        except OSError as error:
            errors.append(str(error))
        monkeypatch.setattr(os, "fsync", real)
        check(Index.open(index.folder), ["a", "c", "d", "e"])
        assert only_what_counts(index.folder)
    assert len(errors) >= 7
    for error in errors:
        assert re.search(
            "cannot write to the index .*: No space left on device; it is whole, as it was before", error
        )
    check(Index.open(index.folder), ["a", "c", "d", "e", "f"])


@pytest.mark.parametrize("name", ["fsync", "replace", "rename"])
def test_an_interrupt_at_any_step_leaves_the_old_index_or_the_new_one(index, monkeypatch, name):
    real = getattr(os, name)
    for point in range(30):
        calls, before = [], Index.open(index.folder).ids.tolist()

        def interrupted(*arguments, calls=calls, point=point, **keywords):
            calls.append(real(*arguments, **keywords))
            if len(calls) > point:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, name, interrupted)
        try:
            added(index, [f"new {point}"])
        except KeyboardInterrupt:
            check(Index.open(index.folder), ids := Index.open(index.folder).ids.tolist())
            assert ids in (before, [*before, f"new {point}"])
        else:
            break
        finally:
            monkeypatch.setattr(os, name, real)
        assert only_what_counts(index.folder)
    assert point > 0


def run(script, *arguments, **options):
    code = textwrap.dedent(script)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    paths = [
        str(Path(indexes.__file__).parents[2]),
        str(Path(__file__).parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **options)


def test_files_that_may_not_grow_are_an_error_in_plain_words(index):
    """The system itself refuses the write: no file of this process may be longer than 2,000 bytes."""
    script = """
        import resource, sys
        from pathlib import Path
        import test_index as t
        index = t.Index.open(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            t.added(index, [str(number) for number in range(40)])
        except OSError as error:
            print(error)
    """
    output, _ = run(script, index.folder).communicate(timeout=120)
    assert "cannot write to the index" in output
    assert "File too large" in output
    check(Index.open(index.folder), ["a", "c", "d", "e"])
    assert only_what_counts(index.folder)


@pytest.fixture
def nobody():
    """Runs the test as a user whom permissions bind, in a folder that this user can reach."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        root = os.geteuid() == 0
        try:
            yield Path(place), lambda: os.seteuid(65534) if root else None
        finally:
            if root:
                os.seteuid(0)


def test_a_read_only_folder_is_readable_and_says_that_it_cannot_be_written(nobody):
    place, become = nobody
    index = added(Index.create(place / "index", embedder=EMBEDDER, model=MODEL), ["a"])
    for folder, _, files in os.walk(index.folder):
        os.chmod(folder, 0o555)
        for file in files:
            os.chmod(Path(folder, file), 0o444)
    become()
    check(Index.open(index.folder), ["a"])
    with pytest.raises(OSError, match=r"cannot write to the index .*Permission denied"):
        added(index, ["b"])
    with pytest.raises(OSError, match=r"cannot write to the index .*Permission denied"):
        index.remove(ids=["a"])
    with pytest.raises(OSError, match=r"cannot make the index .*Permission denied"):
        Index.create(place / "new", embedder=EMBEDDER, model=MODEL)


def test_whoever_may_read_the_folder_may_read_the_index(index):
    os.chmod(index.folder, 0o755)
    added(index, ["f"])
    assert (index.folder / "index.json").stat().st_mode & 0o777 == 0o644


# Several processes.


def test_a_second_writer_waits_and_then_says_so(index, monkeypatch):
    monkeypatch.setattr(_disk, "WAIT", 0.2)
    with (index.folder / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=r"another process is writing to the index .*within 0 s"):
            added(index, ["f"])
        check(Index.open(index.folder), ["a", "c", "d", "e"])
    check(added(index, ["f"]), ["a", "c", "d", "e", "f"])


def test_a_second_writer_goes_on_as_soon_as_the_first_has_finished(index):
    with (index.folder / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.3, lambda: fcntl.flock(other, fcntl.LOCK_UN)).start()
        check(added(index, ["f"]), ["a", "c", "d", "e", "f"])


WRITER = """
    import sys
    from pathlib import Path
    import test_index as t
    name, folder = sys.argv[1], Path(sys.argv[2])
    index = t.Index.open(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(12):
        t.added(index, [f"{name} {number}", f"{name} {number} too"])
        if number % 3 == 2:
            index.remove(ids=[f"{name} {number} too"])
"""


def test_writers_at_the_same_time_all_get_their_photos_in_and_a_reader_reads_on(empty):
    writers = [run(WRITER, name, empty.folder, stdin=subprocess.PIPE) for name in ("x", "y", "z")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    reads = 0
    while any(writer.poll() is None for writer in writers):
        seen = Index.open(empty.folder)
        check(seen, seen.ids.tolist())
        reads += 1
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    ids = Index.open(empty.folder).ids.tolist()
    assert reads > 3
    for name in ("x", "y", "z"):
        mine = [id for id in ids if id.startswith(name)]
        wanted = [(f"{name} {n}", f"{name} {n} too") for n in range(12)]
        assert mine == [id for n, pair in enumerate(wanted) for id in (pair[:1] if n % 3 == 2 else pair)]


# Kills. One process stays without threads and forks the writers, since starting Python for each takes seconds.

FORKING = """
    import os, random, shutil, signal, sys, time, warnings
    from pathlib import Path
    import test_index as t
    warnings.simplefilter("ignore")
    POINTS = "fsync replace rename mkdir unlink rmdir".split()

    def die_at(point):
        calls = 0
        def counted(real):
            def call(*arguments, **keywords):
                nonlocal calls
                calls += 1
                if calls > point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **keywords)
            return call
        for name in POINTS:
            setattr(os, name, counted(getattr(os, name)))

    def write(folder, how, value):
        t.indexes.MOST_SEGMENTS = 4
        index = t.Index.open(folder)
        if how == "point":
            die_at(int(value))
            t.added(index, ["last"])
            return
        while True:
            number = int(index.ids[-1]) + 1 if len(index) else 0
            index = t.added(index, [f"{number:05d}"])
            if number % 10 == 9:
                index = index.remove(ids=[f"{number - 5:05d}"])[0]

    for line in sys.stdin:
        how, value, folder = line.rstrip("\\n").split(" ", 2)
        child = os.fork()
        if not child:
            write(Path(folder), how, value)
            os._exit(0)
        if how == "after":
            time.sleep(float(value))
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def kill():
    """Has a writer killed in a folder; returns whether it was."""
    forking = run(FORKING, stdin=subprocess.PIPE)

    def killed(folder, how, value):
        forking.stdin.write(f"{how} {value} {folder}\n")
        forking.stdin.flush()
        status = int(forking.stdout.readline())
        assert status in (0, -9)
        return status == -9

    yield killed
    forking.communicate()


def test_a_writer_that_is_killed_at_any_step_leaves_the_old_index_or_the_new_one(empty, tmp_path, kill):
    """The add of a 5th segment, with the merge that it brings: a kill before each call that changes the disk."""
    index, before = empty, [str(number) for number in range(4)]
    for id in before:
        index = added(index, [id])
    index, before = index.remove(ids=["3"])[0], [id for id in before if id != "3"]
    outcomes = []
    for point in range(200):
        copy = tmp_path / f"copy {point}"
        shutil.copytree(index.folder, copy)
        killed = kill(copy, "point", point)
        left = Index.open(copy)
        ids = left.ids.tolist()
        check(left, ids)
        assert ids in (before, [*before, "last"])
        outcomes.append(len(ids))
        check(added(left, ["later"]), [*ids, "later"])
        assert only_what_counts(copy)
        shutil.rmtree(copy)
        if not killed:
            break
    assert len(outcomes) > 25
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (3, 4)


def test_writers_that_are_killed_at_random_moments_leave_a_good_index(empty, kill):
    """Twenty-four writers add and remove and merge without end, one after the other, until each is killed."""
    moments, count, grown, kept = random.Random(0), 0, 0, 0
    for _ in range(24):
        assert kill(empty.folder, "after", 0.02 + 0.2 * moments.random())
        index = Index.open(empty.folder)
        ids = index.ids.tolist()
        check(index, ids)
        last = int(ids[-1]) if ids else -1
        # A tenth photo is there a moment before the one that it removes has gone: a kill may keep one more.
        gone = {f"{number - 5:05d}" for number in range(9, last + 1, 10)}
        missing = {f"{number:05d}" for number in range(last + 1)} - set(ids)
        assert missing <= gone
        assert len(gone - missing) <= kept + 1
        kept = len(gone - missing)
        assert len(ids) >= count - 1
        grown += len(ids) > count
        count = len(ids)
    assert grown > 5
    added(Index.open(empty.folder), ["99999"])
    assert only_what_counts(empty.folder)
