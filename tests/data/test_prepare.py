import http.server
import subprocess
import sys
import threading

import numpy as np
import pytest

from fsl_jax.data import prepare as preparing
from fsl_jax.data.prepare import download, prepare, whole_folder, write_table
from fsl_jax.data.source import load_source
from fsl_jax.data.sources import csv_manifest
from fsl_jax.data.table import Attributes, Coded, Table


@pytest.fixture
def table():
    """Every kind of column, with signs that csv files and file systems are awkward about."""
    smooth = np.linspace(0, 255, 16).astype(np.uint8)
    images = np.stack(
        [np.broadcast_to(smooth[:, None, None], (16, 16, 3)), *np.full((3, 16, 16, 3), 90, np.uint8)]
    )
    return Table(
        source="made",
        label=Coded.of(["A/b, c", "A/b, c", 'été "7"', "plain"]),
        split=np.array(["train", "train", "val", "test"]),
        images=images.astype(np.uint8),
        role=np.array(["gallery", "query", "", "query"]),
        domain=Coded.of(["shop", "customer", "", "shop"]),
        levels={"category": Coded.of(["bags", "bags", "shoes", ""])},
        attributes=Attributes.of(["colour=red|material=wool", "", "colour=blue", "colour=red"]),
        text=np.array(['A bag, "large"', "two words", "", "NA"]),
    )


def same_column(first, second):
    np.testing.assert_array_equal(first.codes, second.codes)
    assert first.names == second.names


def assert_same_columns(read, written):
    same_column(read.label, written.label)
    np.testing.assert_array_equal(read.split, written.split)
    np.testing.assert_array_equal(read.role, written.role)
    same_column(read.domain, written.domain)
    assert list(read.levels) == list(written.levels)
    for name, level in written.levels.items():
        same_column(read.levels[name], level)
    assert read.attributes.names == written.attributes.names
    np.testing.assert_array_equal(read.attributes.values, written.attributes.values)
    assert read.text.tolist() == written.text.tolist()


def test_a_written_table_reads_back_with_the_same_columns(table, tmp_path):
    from fsl_jax.data.read import read_all

    write_table(table, tmp_path / "out")
    read = csv_manifest.load(tmp_path / "out", "train+val+test")
    table = table.select("train+val+test")  # in the order in which every source gives its rows
    assert_same_columns(read, table)
    images = read_all(read, size=16, channels=3, fit="pad", unreadable="refuse").images
    assert abs(images.astype(int) - table.images).max() <= 3


def test_the_catalogue_is_written_so_that_csv_manifest_reads_it(tmp_path):
    options = {"labels": 8, "photos": 3, "size": 32, "seed": 0}
    line = prepare("catalogue", tmp_path / "shop", options)
    drawn = load_source("catalogue", None, "train+val+test", options)
    assert line == f"catalogue: {len(drawn)} photos of 8 labels in {tmp_path / 'shop'}"
    assert_same_columns(csv_manifest.load(tmp_path / "shop", "train+val+test"), drawn)


def test_an_interrupted_write_leaves_nothing(table, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "_write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_table(table, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_alone(table, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty"):
        write_table(table, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_files_are_not_written_again(table, tmp_path):
    write_table(table, tmp_path / "out")
    read = csv_manifest.load(tmp_path / "out", "train")
    with pytest.raises(ValueError, match="files already"):
        write_table(read, tmp_path / "again")


@pytest.mark.parametrize("source", ["image_folder", "csv_manifest", "fashion_mnist"])
def test_what_cannot_be_downloaded_is_described(source, tmp_path):
    with pytest.raises(ValueError, match=f"{source} has to be got by hand: .+"):
        prepare(source, tmp_path, {})


def test_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"no option 'lables'; .*did you mean 'labels'"):
        prepare("catalogue", tmp_path / "x", {"lables": 8})
    with pytest.raises(ValueError, match="tfds lacks the option name"):
        prepare("tfds", tmp_path / "x", {})
    with pytest.raises(ValueError, match=r"no 'imagefolder' in sources; .*did you mean 'image_folder'"):
        prepare("imagefolder", tmp_path / "x", {})
    with pytest.raises(ValueError, match="needs a root"):
        prepare("catalogue", None, {})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server():
    """Serves "whole" well and breaks off "cut"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in ("/whole", "/cut") else 404)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(bytes(500 if self.path == "/cut" else 1000))

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_downloads_whole_or_not_at_all(server, tmp_path):
    download(f"{server}/whole", tmp_path / "a" / "file.zip")
    assert (tmp_path / "a" / "file.zip").read_bytes() == bytes(1000)
    with pytest.raises(ValueError, match="broke off after 500 of 1,000 bytes; get it by hand"):
        download(f"{server}/cut", tmp_path / "cut.zip")
    with pytest.raises(ValueError, match=r"cannot download .*Not Found.*get it by hand and put it at"):
        download(f"{server}/missing", tmp_path / "missing.zip")
    with pytest.raises(ValueError, match="cannot download"):
        download("http://127.0.0.1:1/none", tmp_path / "none.zip")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_omniglot_downloads_what_is_missing_and_checks_it(tmp_path, monkeypatch):
    from fsl_jax.data.sources import omniglot

    (tmp_path / "images_background").mkdir()
    asked = []
    monkeypatch.setattr(omniglot, "download", lambda url, file: asked.append((url.rsplit("/", 1)[1], file)))
    with pytest.raises(ValueError, match="0 characters; expected 964"):
        prepare("omniglot", tmp_path, {})
    assert asked == [("images_evaluation.zip", tmp_path / "images_evaluation.zip")]


def test_importing_the_sources_and_commands_pulls_in_no_heavy_library():
    program = """
import importlib, sys
from fsl_jax import lookup
for name in lookup.known("fsl_jax.data.sources"):
    importlib.import_module(f"fsl_jax.data.sources.{name}")
import fsl_jax.cli, fsl_jax.data.prepare, fsl_jax.data.report, fsl_jax.data.validate
heavy = {"torch", "tensorflow", "tensorflow_datasets", "polars", "grain", "sklearn", "jax"} & set(sys.modules)
sys.exit(f"imports {heavy}" if heavy else 0)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
