"""The command with the real index, model loading and engine."""

import importlib.util

import pytest
import typer
from toy import BEARER, PREPROCESS, WORD, Client, as_bytes, drawn, limits, make_index, photo_of, toy_embedder
from typer.testing import CliRunner

from fsl_jax.search import models
from fsl_jax.serving import commands
from fsl_jax.serving.limits import Token

app = typer.Typer()
app.command()(commands.serve)


def serve(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def toy_model(monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda spec: toy_embedder())


def test_an_index_is_served_with_its_engine_and_can_be_changed(tmp_path, toy_model):
    make_index(tmp_path / "index", calibrated=True)
    guard = commands.open_app(tmp_path / "index", engine="exact", limits=limits(), token=Token(WORD))
    new = as_bytes(drawn("red cap").rotate(180))
    with Client(guard) as client:
        first = client.search(photo_of("red bag", 1)).json()["hits"][0]
        assert (first["label"], first["same_article"]) == ("red bag", True)
        answer = client.post("/articles", files={"photos": new}, data={"label": "new"}, headers=BEARER)
        assert answer.status_code == 201
        assert client.search(new).json()["hits"][0]["label"] == "new"
        assert client.delete("/articles/new", headers=BEARER).json() == {"removed": 1}
        assert client.search(new).json()["hits"][0]["label"] != "new"
    again = commands.open_app(tmp_path / "index", engine="exact", limits=limits(), token=Token(None))
    assert len(again.app.state.service.catalogue.shelf.index) == 24
    assert again.app.state.service.catalogue.shelf.index.preprocess == PREPROCESS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no index"),
        (("--engine", "nonsense"), "no index"),
        (("--max-upload-mb", 0), "max_upload is 0; expected more than 0"),
        (("--timeout", "nan"), "timeout is nan"),
        (("--max-pixels", 10**12), "Pillow itself decodes at most"),
        (("--token-file", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(tmp_path, options, message):
    result = serve(tmp_path / "none", *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_an_unknown_engine_is_told(tmp_path, toy_model):
    make_index(tmp_path / "index", photos=1)
    result = serve(tmp_path / "index", "--engine", "nonsense")
    assert (result.exit_code, "'nonsense'" in result.stderr) == (1, True)


def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    result = serve(tmp_path)
    assert result.exit_code == 1
    assert "serve needs uvicorn, not installed here: pip install 'fsl_jax[serve]'" in result.stderr


def test_an_address_in_use_is_told(tmp_path, toy_model):
    import socket

    make_index(tmp_path / "index", photos=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = serve(tmp_path / "index", "--port", taken.getsockname()[1])
    assert result.exit_code == 1
    assert "cannot listen on 127.0.0.1:" in result.stderr


def test_the_packages_of_the_service_are_imported_when_it_is_started_only():
    import subprocess
    import sys

    heavy = {"fastapi", "jax", "uvicorn", "numpy"}
    code = f"import sys, fsl_jax.serving.commands; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
