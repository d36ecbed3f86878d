"""A whole sweep with the real trainer: stopped, continued, and gathered."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

REPOSITORY = Path(__file__).resolve().parents[2]
CONSOLE = [sys.executable, "-c", "from fsl_jax.cli import app; app()"]
FEW = ["--config.train.steps=40", "--config.eval.retrieval=False", "--config.eval.grid.ways=()"]


def start(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*CONSOLE, "sweep", *map(str, arguments)], cwd=REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process, status=0):
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, err
    return out, err


@pytest.mark.slow
def test_a_sweep_is_stopped_continued_and_gathered(tmp_path):
    root = tmp_path / "seeds"
    command = "run", "--config", "configs/maml.py:smoke", "--root", root, "--seeds", 2, *FEW
    process = start(*command)
    for _ in range(6000):
        if (root / "seed=0" / "checkpoints" / "10").is_dir():
            break
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = finished(process)
    assert "seed=0: stopped" in err
    assert "SIGTERM: the same command continues from there" in err
    _, err = finished(start(*command))
    assert "2 of 2 runs done" in err
    assert "continuing from step " in (root / "seed=0" / "output.log").read_text()
    accuracy = [
        json.loads((root / f"seed={seed}" / "result.json").read_text())["accuracy"] for seed in range(2)
    ]
    out, _ = finished(start("table", "--root", root, "--json", "--metric", "accuracy"))
    (row,) = json.loads(out)["rows"]
    assert row["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracy))
    half = scipy.stats.t.ppf(0.975, 1) * scipy.stats.sem(accuracy)
    assert row["metrics"]["accuracy"]["ci95"] == pytest.approx(half)
    _, err = finished(start(*command))
    assert "runs: 2, 2 done, 0 to go" in err
