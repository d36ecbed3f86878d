"""What a training step costs, as the command says it; in a process of its own, since absl's flags are global."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = [
    "--config", "configs/protonet.py:smoke", "--config.train.steps_per_call=5", "--config.model.options.filters=4",
]  # fmt: skip


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from fsl_jax.cli import app; app()", "profile", *SMALL, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_says_arithmetic_memory_and_times_of_a_step(tmp_path):
    done = run("--calls", 2, "--json", "--trace", tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    # Two tasks of 15 photos, 28 px, four layers of four filters: at least the products of the second layer, forward.
    assert figures["flops"] > 15 * 14 * 14 * 9 * 4 * 4 * 2
    assert figures["seconds_a_step"] > 0
    assert figures["temporary_bytes"] > 0
    assert figures["compile_seconds"] > 0
    assert figures["a_step"] == "2 tasks"
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_without_calls_a_table_says_what_needs_no_timing():
    out = run("--calls", 0).stdout
    assert "GFLOP, each device" in out
    assert "seconds, median" not in out


def test_says_what_crosses_between_devices():
    figures = json.loads(run("--calls", 0, "--json", "--cpu-devices", 2).stdout)
    # Two tasks on two devices: each sends half of its gradient, and then half of the sum, and a few numbers more.
    gradient = 4 * figures["parameters"]
    assert gradient < figures["sent_bytes"] < 1.3 * gradient
    assert figures["collectives"] >= 1
    out = run("--calls", 0, "--cpu-devices", 1).stdout
    assert "MB sent to other devices, each device" in out


def test_a_wrong_field_is_one_line():
    done = run("--config.episode.ways=3")
    assert done.returncode == 1
    assert "no config option" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
