import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fsl_jax.data.report import print_report
from fsl_jax.data.table import Coded, Table
from fsl_jax.data.validate import validate


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arrays(labels, *, split="train", role=None, same=()):
    """Distinct photos, except that each pair in `same` is equal."""
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
    for first, second in same:
        images[second] = images[first]
    return Table(
        source="arrays",
        label=Coded.of(labels),
        split=np.broadcast_to(split, len(labels)).copy(),
        images=images,
        role=None if role is None else np.array(role),
    )


def printed(report):
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=200))
    return stream.getvalue()


def test_a_clean_set_has_no_problems():
    report = validate(arrays(["a", "a", "b", "b"]), shot=1, query=1)
    assert report.problems == 0
    assert "no problems" in printed(report)


def test_counts_photos_and_labels_by_split():
    report = validate(arrays(list("aabcc"), split=["train", "train", "val", "test", "test"]))
    counts = {
        name: (split.photos, split.labels, split.fewest, split.most) for name, split in report.splits.items()
    }
    assert counts == {"train": (2, 1, 2, 2), "val": (1, 1, 1, 1), "test": (2, 1, 2, 2)}


def test_the_histogram_counts_labels_by_their_photos():
    counts = {"a": 1, "b": 1, "c": 2, "d": 4, "e": 120}
    labels = [name for name, count in counts.items() for _ in range(count)]
    histogram = validate(arrays(labels)).splits["train"].histogram
    assert histogram == (
        ("1", 2),
        ("2", 1),
        ("3-4", 1),
        ("5-9", 0),
        ("10-19", 0),
        ("20-49", 0),
        ("50-99", 0),
        ("100+", 1),
    )
    assert "100+" in printed(validate(arrays(labels)))


def test_labels_with_too_few_photos_for_an_episode_are_named():
    table = arrays(["a", "a", "a", "b", "b", "c"])
    assert validate(table, shot=1, query=2).splits["train"].scarce == ("b", "c")
    assert validate(table, shot=1).splits["train"].scarce == ()
    assert validate(table).splits["train"].scarce == ()
    assert "train: labels with fewer than 3 photos (2): b, c" in printed(validate(table, shot=1, query=2))


def test_queries_without_a_gallery_photo_of_their_split_are_named():
    table = arrays(
        ["a", "a", "b", "c", "c"],
        split=["test", "test", "test", "test", "train"],
        role=["query", "gallery", "query", "query", "gallery"],
    )
    report = validate(table)
    assert report.splits["test"].unmatched == ("image 2", "image 3")
    assert report.splits["test"].roles == {"gallery": 1, "query": 3}
    assert report.problems == 2


def test_equal_photos_are_told_and_are_a_problem_with_different_labels():
    report = validate(arrays(["a", "a", "b", "c"], same=[(0, 1), (2, 3)]))
    assert report.duplicates == (("image 0", "image 1"),)
    assert report.conflicts == (("image 2 (b)", "image 3 (c)"),)
    assert report.problems == 1
    assert "image 2 (b) = image 3 (c)" in printed(report)


def test_labels_in_several_splits_are_told():
    report = validate(arrays(["a", "a", "b"], split=["train", "test", "test"]))
    assert report.shared == ("a",)
    assert report.problems == 0
    assert "labels in several splits" in printed(report)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    names = ["a.png", "copy.png", "broken.png", "empty.png", "other.png"]
    for name in ("a.png", "other.png"):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    (tmp_path / "empty.png").write_bytes(b"")
    return Table(
        source="files",
        label=Coded.of(["x", "y", "x", "x", "y"]),
        split=np.full(5, "train"),
        path=np.array(names, dtype=object),
        root=tmp_path,
    )


def test_broken_files_and_copies_are_found(files):
    report = validate(files, skipped=[("__MACOSX/._a.png", "a stub")])
    assert [path for path, _ in report.unreadable] == ["broken.png", "empty.png"]
    assert report.conflicts == (("a.png (x)", "copy.png (y)"),)
    assert report.problems == 3
    text = printed(report)
    assert "empty.png (empty file)" in text
    assert "__MACOSX/._a.png (a stub)" in text


def test_long_lists_are_cut_and_signs_of_markup_survive():
    report = validate(arrays([f"[red]label {i}[/]" for i in range(9)]), shot=2)
    assert "[red]label 0[/], [red]label 1[/]" in printed(report)
    assert "and 4 more" in printed(report)


def test_the_report_is_plain_data():
    data = validate(arrays(["a", "b"], same=[(0, 1)]), shot=1).as_json()
    assert data["problems"] == 1
    assert data["splits"]["train"]["photos"] == 2
    assert data["conflicts"] == (("image 0 (a)", "image 1 (b)"),)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="shot is -1"):
        validate(arrays(["a"]), shot=-1)


def test_the_real_catalogue_is_readable(real_data):
    from fsl_jax.data.source import load_source

    table = load_source("csv_manifest", real_data("luma"), "train+val+test", {})
    report = validate(table)
    assert report.unreadable == ()
    assert report.splits["test"].roles == {"gallery": 155, "query": 90}
