"""Whole runs as a user starts them: killed, continued, judged, and refused with one clear line."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--config.train.steps=200", "--config.eval.retrieval=False", "--config.train.save_every=20"]
SMALL += ["--config.eval.every=100", "--config.train.log_every=5"]


def command(*arguments):
    return [sys.executable, "-m", "fsl_jax.main", *map(str, arguments)]


def start(*arguments, **options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command(*arguments), cwd=REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finished(*arguments, status=0):
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out, err


def train(workdir, *more):
    return "--config", "configs/protonet.py:smoke", "--workdir", workdir, *SMALL, *more


def log_of(workdir):
    file = Path(workdir) / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_until_saved(process, workdir):
    """Waits for the first whole checkpoint, so that there is something to continue from."""
    for _ in range(6000):
        if (workdir / "checkpoints" / "20").is_dir():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("the run saved nothing")


def parameters(workdir):
    """The newest checkpoint's parameters, read without our code."""
    import orbax.checkpoint

    newest = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())
    state = orbax.checkpoint.StandardCheckpointer().restore(
        (workdir / "checkpoints" / str(newest) / "state").absolute()
    )
    import jax

    return newest, [np.asarray(leaf) for leaf in jax.tree.leaves((state["variables"], state["optimizer"]))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    out, err = finished(*train(workdir))
    return workdir, out, err


def test_a_run_leaves_everything_in_its_workdir(undisturbed):
    workdir, out, err = undisturbed
    assert {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "result.json", "report.html"} <= {
        file.name for file in workdir.iterdir()
    }
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 200
    assert 0 <= result["accuracy"] <= 1
    assert result["chance"] == 0.2
    assert result["norm_mode"] == "running"
    assert result["transductive"] is False
    assert {"accuracy_ci95", "seconds", "way", "shot", "episodes"} <= set(result)
    assert "compiling" in err
    assert "accuracy" in out
    assert [line["step"] for line in log_of(workdir) if "train/loss" in line] == list(range(5, 201, 5))


def test_evaluating_the_workdir_alone_gives_the_same_figures(undisturbed):
    workdir, _, _ = undisturbed
    before = json.loads((workdir / "result.json").read_text())
    finished("--mode=evaluate", "--workdir", workdir)
    after = json.loads((workdir / "result.json").read_text())
    assert before == after


def test_a_judgement_may_be_kept_elsewhere(undisturbed, tmp_path):
    workdir, _, _ = undisturbed
    before = {file.name: file.stat().st_mtime_ns for file in workdir.iterdir() if file.is_file()}
    finished("--mode=evaluate", "--workdir", workdir, "--result_dir", tmp_path / "again")
    result = json.loads((tmp_path / "again" / "result.json").read_text())
    assert result == json.loads((workdir / "result.json").read_text())
    assert "loss" in (tmp_path / "again" / "report.html").read_text()  # the run's curves
    assert {file.name: file.stat().st_mtime_ns for file in workdir.iterdir() if file.is_file()} == before


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_continues_to_the_same_parameters_bit_for_bit(undisturbed, tmp_path, number):
    workdir = tmp_path / "killed"
    process = start(*train(workdir))
    wait_until_saved(process, workdir)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert f"{number.name}: saved step" in err
        assert process.returncode == (130 if number == signal.SIGINT else 0)
        assert parameters(workdir)[0] < 200
    _, err = finished(*train(workdir))
    assert re.search(r"continuing from step [1-9]\d+ ", err)
    newest, got = parameters(workdir)
    expected_newest, expected = parameters(undisturbed[0])
    assert newest == expected_newest == 200
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    steps = [line["step"] for line in log_of(workdir) if "train/loss" in line]
    assert steps == sorted(set(steps))
    assert steps[-1] == 200


def test_another_config_in_the_same_workdir_is_refused_with_the_difference(undisturbed):
    _, err = finished(*train(undisturbed[0], "--config.seed=1"), status=2)
    assert "seed: 0 -> 1" in err
    assert "choose another --workdir" in err


@pytest.mark.slow
def test_more_steps_continue_a_finished_run(undisturbed, tmp_path):
    workdir = tmp_path / "longer"
    shutil.copytree(undisturbed[0], workdir)
    _, err = finished(*train(workdir, "--config.train.steps=220"))
    assert "continuing from step 200" in err
    assert json.loads((workdir / "result.json").read_text())["steps"] == 220


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    workdir = tmp_path / "diverged"
    rule = "--config.optimizer.learning_rate=1e38"
    _, err = finished(*train(workdir, rule, "--config.optimizer.name=sgd"), status=2)
    assert "error: step " in err
    assert "loss" in err
    assert "Lower --config.optimizer.learning_rate" in err


@pytest.fixture
def shop(tmp_path):
    """A folder with one folder a label, one of them with a single photo."""
    folder = tmp_path / "shop"
    for label in range(12):
        (folder / f"dress_{label:02d}").mkdir(parents=True)
        for photo in range(1 if label == 11 else 4):
            image = np.random.default_rng(10 * label + photo).integers(0, 256, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"dress_{label:02d}" / f"{photo}.jpg")
    return folder


def own(folder, *more):
    return [
        *train(folder.parent / "run", "--config.data.source=image_folder", f"--config.data.root={folder}"),
        *more,
    ]


MANY_LABELS = "--config.data.image_folder.fractions=(0.4,0.3,0.3)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "maml:smoke", "--config.train.stesp=5"], 'Did you mean "steps"'),
        (["--config", "maml:smok"], "no preset 'smok' in configs/maml.py; known: "),
        (
            ["--config", "mmal"],
            "no config 'mmal'; known: adaptive_triplet, attributes, classify, cross_domain, dino, hierarchy, maml,",
        ),
        (["--config", "maml:smoke", "--config.model.name=conv5"], "no 'conv5' in models"),
        (["--config", "maml:smoke", "--config.train.steps=23"], "no multiple of config.train.steps_per_call"),
        (["--mode=evaluate", "--workdir", "/nowhere/at/all"], "no run in /nowhere/at/all"),
        ([], "give a --config"),
        (["--config", "maml:smoke", "--result_dir", "x"], "--result_dir is of --mode=evaluate"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(arguments, message):
    _, err = finished(*arguments, status=2)
    assert message in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("missing folder", "no folder "),
        ("empty folder", "no photo in a label's folder"),
        ("broken photo", "1 of 9 photos cannot be read: "),
        ("one photo", "drop it with --config.data.min_photos=3"),
    ],
)
def test_spoilt_photos_are_one_clear_line(shop, spoil, message):
    root, more = shop, [MANY_LABELS]
    if spoil == "missing folder":
        root = shop / "not_there"
    elif spoil == "empty folder":
        root = shop.parent / "empty"
        root.mkdir()
    elif spoil == "broken photo":
        whole = (shop / "dress_03" / "2.jpg").read_bytes()
        (shop / "dress_03" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    else:
        more += ["--config.episode.way=3", "--config.eval.way=3"]
    arguments = [argument.replace(str(shop), str(root)) for argument in map(str, own(shop, *more))]
    _, err = finished(*arguments, status=2)
    assert message in err
    assert "Traceback" not in err


def test_importing_main_brings_in_no_other_framework():
    heavy = ("torch", "tensorflow", "orbax", "polars", "grain", "matplotlib")
    code = f"import sys, fsl_jax.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_folder_of_photos_is_trained_on_and_judged(shop, tmp_path):
    shutil.rmtree(shop / "dress_11")
    finished(*own(shop, MANY_LABELS, "--config.episode.way=3", "--config.eval.way=3"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["source"] == "image_folder"
    assert "labels_seen_in_training" not in result


@pytest.mark.slow
def test_a_shops_catalogue_is_trained_on_and_judged(real_data, tmp_path):
    source = ["--config.data.source=csv_manifest", f"--config.data.root={real_data('luma')}"]
    finished(*train(tmp_path / "run", *source, "--config.data.min_photos=3", "--config.eval.retrieval=True"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["source"] == "csv_manifest"
    assert result["mAP"] > 2 * result["mAP_of_chance"]


@pytest.mark.slow
def test_labels_that_were_trained_on_are_told(tmp_path):
    _, err = finished(*train(tmp_path / "run", "--config.eval.test_split=train"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["labels_seen_in_training"] == result["labels"]
    assert "warning: " in err


def refreshed(workdir, steps):
    """Hard negatives anew every 10 steps: a run that is stopped inside a window goes on with the window's own."""
    changes = [f"--config.train.steps={steps}", "--config.train.save_every=5", "--config.eval.every=0"]
    changes += ["--config.eval.episodes=0", "--config.eval.grid.ways=()"]
    return "--config", "configs/cross_domain.py:smoke", "--workdir", workdir, *changes


@pytest.mark.slow
def test_a_run_with_hard_negatives_continues_inside_a_window_bit_for_bit(tmp_path):
    finished(*refreshed(tmp_path / "whole", 25))
    finished(*refreshed(tmp_path / "parts", 15))
    _, err = finished(*refreshed(tmp_path / "parts", 25))
    assert "continuing from step 15" in err
    for one, other in zip(*(parameters(tmp_path / name)[1] for name in ("whole", "parts")), strict=True):
        np.testing.assert_array_equal(one, other)
    result = json.loads((tmp_path / "parts" / "result.json").read_text())
    assert (result["loss"], result["mining"]) == ("triplet", "given")
    finished("--mode=evaluate", "--workdir", tmp_path / "parts")


def test_a_method_with_the_wrong_sampler_says_so(tmp_path):
    out, err = finished(
        "--config", "configs/triplet.py:smoke", "--workdir", tmp_path, "--config.sampler.name=episodes", status=2
    )  # fmt: skip
    assert err.strip().splitlines()[-1].startswith("error: method 'embedding' is given flat batches")
    assert not out


@pytest.mark.slow
def test_a_run_without_labels_is_the_start_of_another_run(tmp_path):
    """Photos of a folder, self-distilled, then fine-tuned: the second run begins with the teacher of the first."""
    first, second = tmp_path / "dino", tmp_path / "triplet"
    for label, photo in itertools.product(range(32), range(4)):  # a label's photos are alike
        (tmp_path / "photos" / f"{label:02d}").mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(label).integers(0, 200, (40, 30, 3), dtype=np.uint8)
        image += np.random.default_rng(10 * label + photo).integers(0, 56, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / f"{label:02d}" / f"{photo}.png")
    photos = ["--config.data.source=image_folder", f"--config.data.root={tmp_path / 'photos'}"]
    few = [f"--config.train.{name}=5" for name in ("steps", "steps_per_call", "save_every")]
    few += ["--config.eval.every=0", "--config.eval.episodes=10"]
    # The second run judges the network's own embedding, so the first does.
    own = "--config.algorithm.options.readout=embedding"
    finished("--config=configs/dino.py", *photos, *few, own, "--workdir", first)
    result = json.loads((first / "result.json").read_text())
    assert 0 < result["knn"] <= 1
    assert 0 < result["linear"] <= 1
    still = ["--config.optimizer.learning_rate=0.0", "--config.eval.distance=cosine"]
    start = [f"--config.model.pretrained={first}", "--config.model.options={}"]
    finished("--config=configs/triplet.py", *start, *photos, *few, *still, "--workdir", second)
    taken = json.loads((second / "result.json").read_text())
    assert taken["mAP"] == pytest.approx(result["mAP"], abs=1e-6)


def test_training_photos_can_be_those_of_one_kind(tmp_path):
    _, told = finished(
        *train(tmp_path / "run", "--config.data.train_only=label=[A-D]*", "--config.train.steps=20"),
    )
    found = re.search(r"train: ([\d,]+) photos .*\n.*training on ([\d,]+) of them: label=", told)
    assert 0 < int(found[2].replace(",", "")) < int(found[1].replace(",", ""))
    _, told = finished(*train(tmp_path / "none", "--config.data.train_only=role=nobody"), status=2)
    assert "matches 'role=nobody'" in told


def test_a_wrong_view_is_told_before_there_is_a_workdir(tmp_path):
    """A workdir with the wrong config would refuse the right one."""
    flags = ["--config=configs/dino.py:smoke", "--config.multicrop.hue=3", "--workdir", tmp_path / "run"]
    _, told = finished(*flags, status=2)
    assert "error: config.multicrop.hue is 3.0; expected 0 to 0.5" in told
    assert not (tmp_path / "run").exists()
    nothing = [
        "--config=configs/dino.py:smoke",
        "--config.model.pretrained",
        tmp_path,
        "--config.model.options={}",
    ]
    _, told = finished(*nothing, "--workdir", tmp_path / "run", status=2)
    assert f"no run in {tmp_path}" in told


def test_help_tells_the_flags_and_the_fields_of_a_config():
    out, _ = finished("--help")
    assert "--workdir" in out
    assert "--num_processes" in out
    out, _ = finished("--config", "maml:smoke", "--config.seed=4", "--help")
    assert "--config.seed=4" in out
    assert "--config.model.options.filters=32" in out
    _, told = finished("--config", "nope", "--help", status=2)
    assert told.startswith("error: no config 'nope'")
