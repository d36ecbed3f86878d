"""Embedding a source into a file: whole after any stop, of one model, without the photos that are broken."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fsl_jax import embedder, run
from fsl_jax.cli import app
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.sources import features, image_folder

PREPROCESS = Preprocess(size=8, channels=3, fit="pad", mean=(0.5,), std=(0.5,))


def mean_colour(calls=None):
    """A model whose embedding can be checked by hand: the photo's mean colour."""

    @jax.jit
    def embed(images):
        return PREPROCESS(images).mean((1, 2))

    def counted(images):
        if calls is not None:
            calls.append(len(images))
        return embed(images)

    return embedder.Embedder(counted, PREPROCESS, "digest of the mean colour")


@pytest.fixture
def shop(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("boot", "coat", "dress"):
        (tmp_path / "shop" / label).mkdir(parents=True)
        for photo in range(4):
            image = np.full((8, 8, 3), rng.integers(0, 256, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "shop" / label / f"{photo}.png")
    return tmp_path / "shop"


def table_of(shop):
    return image_folder.load(shop, "train+val+test", fractions=(1.0, 0.0, 0.0))


def test_the_file_has_each_photo_with_its_embedding_path_and_label(shop, tmp_path):
    done = embedder.embed_to_file(mean_colour(), table_of(shop), tmp_path / "features.npz", block=2)
    kept = np.load(tmp_path / "features.npz")
    assert done["photos"] == len(kept["path"]) == 12
    assert kept["embedding"].dtype == np.float32
    for path, label, embedding in zip(kept["path"], kept["label"], kept["embedding"], strict=True):
        assert path.startswith(f"{label}/")
        colour = np.asarray(Image.open(shop / path))[0, 0] / 255.0
        np.testing.assert_allclose(embedding, (colour - 0.5) / 0.5, atol=1e-5)
    assert str(kept["digest"]) == "digest of the mean colour"
    assert not list(tmp_path.glob("*.parts"))


def test_broken_photos_are_left_out_and_named(shop, tmp_path):
    (shop / "coat" / "1.png").write_bytes(b"no photo")
    done = embedder.embed_to_file(mean_colour(), table_of(shop), tmp_path / "features.npz", block=2)
    assert [photo for photo, _ in done["unreadable"]] == ["coat/1.png"]
    assert "coat/1.png" not in np.load(tmp_path / "features.npz")["path"]


def stopped(shop, tmp_path, monkeypatch):
    """Stops a call after its first chunk."""
    monkeypatch.setattr(embedder, "CHUNK", 4)
    model, calls = mean_colour(), []

    def failing(images):
        calls.append(0)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return model.embed(images)

    broken = embedder.Embedder(failing, PREPROCESS, model.digest)
    with pytest.raises(KeyboardInterrupt):
        embedder.embed_to_file(broken, table_of(shop), tmp_path / "features.npz", block=1)


def test_a_stopped_call_goes_on_where_it_was(shop, tmp_path, monkeypatch):
    stopped(shop, tmp_path, monkeypatch)
    assert not (tmp_path / "features.npz").exists()
    calls = []
    embedder.embed_to_file(mean_colour(calls), table_of(shop), tmp_path / "features.npz", block=1)
    assert len(calls) == 2  # of three chunks one was there
    whole = tmp_path / "whole.npz"
    embedder.embed_to_file(mean_colour(), table_of(shop), whole, block=1)
    np.testing.assert_array_equal(
        np.load(tmp_path / "features.npz")["embedding"], np.load(whole)["embedding"]
    )


def test_what_another_model_left_is_not_taken(shop, tmp_path, monkeypatch):
    stopped(shop, tmp_path, monkeypatch)
    calls = []
    other = embedder.Embedder(mean_colour(calls).embed, PREPROCESS, "another digest")
    embedder.embed_to_file(other, table_of(shop), tmp_path / "features.npz", block=1)
    assert len(calls) == 3


def test_a_digest_depends_on_weights_names_and_preprocessing():
    weights = {"params": {"kernel": jnp.ones(3)}}
    digests = {
        embedder.digest_of(weights, PREPROCESS, options={}),
        embedder.digest_of(weights, PREPROCESS, options={"pooling": "max"}),
        embedder.digest_of({"params": {"kernel": jnp.zeros(3)}}, PREPROCESS, options={}),
        embedder.digest_of({"params": {"bias": jnp.ones(3)}}, PREPROCESS, options={}),
        embedder.digest_of(
            weights, Preprocess(size=9, channels=3, fit="pad", mean=(0.5,), std=(0.5,)), options={}
        ),
    }
    assert len(digests) == 5
    assert (
        embedder.digest_of({"params": {"kernel": np.ones(3, np.float32)}}, PREPROCESS, options={}) in digests
    )


def test_features_are_read_in_place_of_photos(shop, tmp_path):
    embedder.embed_to_file(mean_colour(), table_of(shop), tmp_path / "features.npz", block=2)
    table = features.load(tmp_path / "features.npz", "train", fractions=(1.0, 0.0, 0.0))
    assert table.has_features
    assert table.images.shape == (12, 1, 1, 3)
    assert table.label.names == ("boot", "coat", "dress")


def test_a_features_file_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no features file .*fsl-jax embed"):
        features.load(tmp_path / "none.npz", "train")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="has no embedding, label, path, role, split"):
        features.load(tmp_path / "other.npz", "train")


def config_of(name):
    file = Path(__file__).resolve().parents[1] / "configs" / "protonet.py"
    spec = importlib.util.spec_from_file_location("config_protonet", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(name)


@pytest.mark.slow
def test_a_head_is_trained_on_features_and_a_workdir_of_photos_embeds(tmp_path):
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((30, 6))
    labels = np.repeat(np.arange(30), 6)
    embedding = (centres[labels] + rng.standard_normal((180, 6))).astype(np.float32)
    columns = {
        "label": np.array([f"l{i:02d}" for i in labels]),
        "path": np.array([str(i) for i in range(180)]),
    }
    empty = {"split": np.full(180, "train"), "role": np.full(180, "")}
    np.savez(tmp_path / "features.npz", embedding=embedding, digest=np.array("x"), **columns, **empty)
    config = config_of("features")
    config.data.root = str(tmp_path / "features.npz")
    config.episode.way = 5
    config.train.update({"steps": 20, "save_every": 20, "log_every": 10})
    config.eval.update({"every": 20, "episodes": 20, "episodes_during": 10})
    assert run.train(config, tmp_path / "run", ["test"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["source"] == "features"
    assert result["accuracy"] > 0.6
    with pytest.raises(ValueError, match="was trained on features"):
        run.embedder_of(tmp_path / "run")


def test_the_command_embeds_with_a_trained_run(shop, tmp_path):
    config = config_of("smoke")
    config.data.update({"source": "image_folder", "root": str(shop), "size": 28})
    config.data.image_folder.fractions = (1.0, 0.0, 0.0)
    config.model.options["filters"] = 4
    config.episode.update({"way": 2})
    config.train.update({"steps": 5, "save_every": 5})
    config.eval.update({"every": 0, "test_split": "train", "way": 2, "episodes": 5})
    assert run.train(config, tmp_path / "run", ["test"]) == 0
    out = tmp_path / "features.npz"
    arguments = [
        "embed",
        "--workdir",
        tmp_path / "run",
        "--source",
        "image_folder",
        "--root",
        shop,
        "--out",
        out,
    ]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert "12 photos" in done.output
    made = run.embedder_of(tmp_path / "run")
    images = np.stack([np.asarray(Image.open(shop / path).resize((28, 28))) for path in np.load(out)["path"]])
    np.testing.assert_allclose(np.load(out)["embedding"], made.embed(images), atol=1e-4)
    assert str(np.load(out)["digest"]) == made.digest


def test_either_a_model_or_a_workdir_is_asked_for(tmp_path):
    arguments = ["embed", "--source", "image_folder", "--root", ".", "--out", str(tmp_path / "f.npz")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "give either --model or --workdir" in done.output
