"""metrics.jsonl: one line a record, nothing twice after a resume, a killed writer's last line left out."""

import json

import numpy as np

from fsl_jax.training.log import Averages, MetricsLog, read_log


def test_lines_have_a_step_and_flat_names(tmp_path):
    log = MetricsLog(tmp_path, start=0)
    log.write(5, {"train/loss": np.float32(0.5)})
    log.close()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 5, "train/loss": 0.5}
    ]
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_resumed_run_takes_out_what_it_will_write_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 5, "a": 1}\n{"step": 10, "a": 2}\n{"step": 15, "a": 3}\n{"st'
    )
    log = MetricsLog(tmp_path, start=10)
    log.write(15, {"a": 4})
    log.close()
    assert read_log(tmp_path / "metrics.jsonl") == [
        {"step": 5, "a": 1},
        {"step": 10, "a": 2},
        {"step": 15, "a": 4},
    ]


def test_averages_are_over_steps_not_over_dispatches():
    averages = Averages()
    averages.add({"loss": np.array([1.0, 2.0, 3.0])}, seconds=1.0)
    averages.add({"loss": np.array([6.0])}, seconds=1.0)
    assert averages.take() == {"train/loss": 3.0, "train/steps_per_second": 2.0}
