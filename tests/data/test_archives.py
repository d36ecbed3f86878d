import errno
import os
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from fsl_jax.data import archives
from fsl_jax.data.archives import members, unpacked

INSTEAD = "unpack it by hand"
WANTED = {"images/1.jpg": "1.jpg", "images/2.jpg": "2.jpg"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fsl_jax" / "unpacked"


@pytest.fixture
def archive(tmp_path):
    return packed(
        tmp_path / "images.zip", {"images/1.jpg": b"one" * 100, "images/2.jpg": b"two", "else": b""}
    )


def packed(file, content, *, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, data in content.items():
            opened.writestr(name, data)
    return file


def patched(file, marker, offset, new):
    """Overwrites bytes at an offset from a record's signature."""
    data = bytearray(file.read_bytes())
    start = data.index(marker) + offset
    data[start : start + len(new)] = new
    file.write_bytes(data)
    return file


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_unpacks_what_is_wanted_under_the_names_given(archive, cache):
    folder = unpacked(archive, {"images/2.jpg": "b.jpg"}, instead=INSTEAD)
    assert folder.parent == cache
    assert contents(folder) == {"b.jpg": b"two"}
    assert list(cache.iterdir()) == [folder]


def test_lists_files_without_folders(tmp_path):
    assert members(packed(tmp_path / "a.zip", {"images/": b"", "images/1.jpg": b"one"})) == ["images/1.jpg"]


def test_unpacks_once(archive, monkeypatch):
    first = unpacked(archive, WANTED, instead=INSTEAD)
    monkeypatch.setattr(archives, "_opened", lambda archive: pytest.fail("opened again"))
    assert unpacked(archive, WANTED, instead=INSTEAD) == first


def test_a_changed_archive_or_choice_gets_another_folder(archive):
    first = unpacked(archive, WANTED, instead=INSTEAD)
    assert unpacked(archive, {"images/1.jpg": "1.jpg"}, instead=INSTEAD) != first
    packed(archive, {"images/1.jpg": b"new", "images/2.jpg": b"photos"})
    second = unpacked(archive, WANTED, instead=INSTEAD)
    assert second != first
    assert contents(second) == {"1.jpg": b"new", "2.jpg": b"photos"}


def test_files_that_were_removed_from_the_cache_come_back(archive, cache):
    folder = unpacked(archive, WANTED, instead=INSTEAD)
    (folder / "2.jpg").unlink()
    assert contents(unpacked(archive, WANTED, instead=INSTEAD)) == {"1.jpg": b"one" * 100, "2.jpg": b"two"}
    assert list(cache.iterdir()) == [folder]


def test_member_names_are_no_paths(tmp_path, cache):
    tricks = {"../../evil.jpg": b"up", "/etc/evil.jpg": b"root", "C:\\evil.jpg": b"drive"}
    names = dict(zip(tricks, ("a.jpg", "b.jpg", "c.jpg"), strict=True))
    folder = unpacked(packed(tmp_path / "tricks.zip", tricks), names, instead=INSTEAD)
    assert contents(folder) == {"a.jpg": b"up", "b.jpg": b"root", "c.jpg": b"drive"}
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "../1.jpg", "a/1.jpg", "a\\1.jpg", "c:1.jpg", "1\n.jpg"]
)
def test_file_names_are_plain(archive, cache, name):
    with pytest.raises(ValueError, match="is not plain"):
        unpacked(archive, {"images/1.jpg": name}, instead=INSTEAD)
    assert not cache.exists()


def test_two_members_need_two_file_names(archive):
    with pytest.raises(ValueError, match=r"'1.jpg' is given to several members"):
        unpacked(archive, dict.fromkeys(WANTED, "1.jpg"), instead=INSTEAD)


def test_a_missing_member_is_named(archive):
    with pytest.raises(ValueError, match=r"has no member 'images/3.jpg'"):
        unpacked(archive, {"images/3.jpg": "3.jpg"}, instead=INSTEAD)


def test_links_are_refused(tmp_path, cache):
    link = zipfile.ZipInfo("images/1.jpg")
    link.external_attr = 0o120777 << 16
    file = packed(tmp_path / "links.zip", {link: b"/etc/passwd"})
    with pytest.raises(ValueError, match=r"'images/1.jpg' is a link"):
        unpacked(file, {"images/1.jpg": "1.jpg"}, instead=INSTEAD)
    assert not cache.exists()


def test_huge_claims_are_refused_before_anything_is_written(archive, cache):
    patched(archive, b"PK\x01\x02", 24, (100_000_001).to_bytes(4, "little"))
    with pytest.raises(ValueError, match=r"'images/1.jpg' claims 100,000,001 bytes; .* at most 100,000,000"):
        unpacked(archive, WANTED, instead=INSTEAD)
    assert not cache.exists()


def test_no_more_is_read_than_declared(archive):
    patched(archive, b"PK\x01\x02", 24, (5).to_bytes(4, "little"))
    with pytest.raises(ValueError, match=r"images.zip is damaged: 'images/1.jpg' cannot be read \(Bad CRC"):
        unpacked(archive, WANTED, instead=INSTEAD)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_a_bound_are_refused(tmp_path, method):
    file = packed(tmp_path / "a.zip", {"1.jpg": b"one"}, method=method)
    with pytest.raises(ValueError, match=rf"'1.jpg' is compressed by method {method}; expected a plain zip"):
        unpacked(file, {"1.jpg": "1.jpg"}, instead=INSTEAD)


@pytest.mark.parametrize(
    ("marker", "offset", "new", "message"),
    [
        (b"images/1.jpg", 14, b"\xff\xff\xff", r"'images/1.jpg' cannot be read"),
        (b"PK\x01\x02", 8, b"\x01", r"'images/1.jpg' cannot be read .*encrypted"),
        (b"PK\x01\x02", 20, b"\x02", r"'images/1.jpg' cannot be read"),
        (b"PK\x01\x02", 24, b"\x2d\x01", r"'images/1.jpg' cannot be read \(300 of 301 bytes"),
        (b"PK\x03\x04", 0, b"XX", r"'images/1.jpg' cannot be read .*[Bb]ad magic"),
        (b"PK\x05\x06", 0, b"XX", "no whole zip file"),
        (b"PK\x01\x02", 0, b"XX", "no whole zip file"),
    ],
)
def test_a_damaged_archive_is_named_and_leaves_nothing(archive, cache, marker, offset, new, message):
    patched(archive, marker, offset, new)
    with pytest.raises(ValueError, match=message) as caught:
        unpacked(archive, WANTED, instead=INSTEAD)
    assert str(archive) in str(caught.value)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_half_an_archive_is_no_zip_file(archive):
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"images.zip is no whole zip file .*get it anew"):
        members(archive)


def test_an_interrupted_process_leaves_nothing(archive, cache, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_put", stop)
        with pytest.raises(KeyboardInterrupt):
            unpacked(archive, WANTED, instead=INSTEAD)
    assert list(cache.iterdir()) == []
    assert len(contents(unpacked(archive, WANTED, instead=INSTEAD))) == 2


def test_what_a_killed_process_left_is_removed_after_a_day(archive, cache):
    hours = {".old.1": 25, ".old.1/half": 25, ".busy.1": 25, ".busy.1/half": 23}
    for name in hours:
        (cache / name).mkdir(parents=True)
    for name, age in hours.items():
        os.utime(cache / name, (time.time() - age * 3600,) * 2)
    folder = unpacked(archive, WANTED, instead=INSTEAD)
    assert sorted(file.name for file in cache.iterdir()) == [".busy.1", folder.name]


def test_processes_that_unpack_at_the_same_time_end_with_one_folder(archive, cache, monkeypatch):
    put, ready = archives._put, []

    def after_all(*arguments):
        ready.append(None)
        while len(ready) < 4:
            time.sleep(0.001)
        put(*arguments)

    monkeypatch.setattr(archives, "_put", after_all)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: unpacked(archive, WANTED, instead=INSTEAD), range(4)))
    assert list(cache.iterdir()) == list(folders)
    assert contents(folders.pop()) == {"1.jpg": b"one" * 100, "2.jpg": b"two"}


def test_a_full_disk_says_where_room_is_needed_and_what_avoids_it(archive, cache, monkeypatch):
    usage = shutil.disk_usage(archive)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        OSError, match=r"bytes are needed, 1,000 are free.*XDG_CACHE_HOME, or unpack it by hand"
    ) as e:
        unpacked(archive, WANTED, instead=INSTEAD)
    assert str(cache) in str(e.value)
    assert list(cache.iterdir()) == []


def test_a_disk_that_fills_meanwhile_leaves_nothing(archive, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device.*make room"):
        unpacked(archive, WANTED, instead=INSTEAD)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(archive, cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("no folder")
    with pytest.raises(OSError, match=r"cannot unpack .*images.zip into .*unpacked .*or unpack it by hand"):
        unpacked(archive, WANTED, instead=INSTEAD)
