"""Photos that are named one by one or by their folders: what counts, in which order, and what is not there."""

import pytest

from fsl_jax.data.source import photos_in


@pytest.fixture
def folder(tmp_path):
    names = [
        "b.jpg", "a.PNG", "deep/er/z.webp", "deep/c.tif", "notes.txt", "._a.PNG", ".hidden.png",
        ".cache/e.png", "__MACOSX/b.jpg", "deep/.thumbs/f.jpg", "video.mp4", "no_extension",
    ]  # fmt: skip
    for name in names:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path / "photos"


def test_photos_of_a_folder_are_found_at_any_depth_sorted_without_what_is_hidden_or_no_photo(folder):
    names = [file.relative_to(folder).as_posix() for file in photos_in([folder])]
    assert names == ["a.PNG", "b.jpg", "deep/c.tif", "deep/er/z.webp"]


def test_files_are_taken_as_they_are_in_the_order_given(folder):
    places = [folder / "no_extension", folder / "b.jpg", folder / "._a.PNG", folder / "b.jpg"]
    assert photos_in(places) == places


def test_files_and_folders_may_be_mixed(folder):
    found = photos_in([folder / "b.jpg", folder / "deep", folder / "a.PNG"])
    assert [file.name for file in found] == ["b.jpg", "c.tif", "z.webp", "a.PNG"]


def test_a_folder_inside_a_hidden_one_counts_where_it_is_named_itself(folder):
    assert [file.name for file in photos_in([folder / ".cache"])] == ["e.png"]


def test_nothing_asked_for_is_nothing_found():
    assert photos_in([]) == []


def test_what_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match=r"gone\.png is not there; expected a photo, or a folder of photos"):
        photos_in([folder / "b.jpg", folder / "gone.png"])


def test_a_folder_without_a_photo_is_named(folder):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no photo in .*empty; expected files such as \.jpg"):
        photos_in([folder, folder / "empty"])
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no photo in .*notes; expected"):
        photos_in([folder / "notes"])
