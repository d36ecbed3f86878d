"""The examples run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_sinusoid_regression_learns_to_fit_in_a_step_and_draws_its_page(tmp_path):
    page = tmp_path / "sinusoid.html"
    done = subprocess.run(
        [sys.executable, "examples/sinusoid.py", "--steps", "4000", "--out", str(page)],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    errors = [[float(x) for x in re.findall(r"(\d+\.\d\d) ", line)] for line in done.stdout.splitlines()[:2]]
    (before, after_one, _), (_, plain_after_one, _) = errors
    assert after_one < 0.6 * before
    assert after_one < 0.8 * plain_after_one
    assert page.read_text().count('class="chart"') == 3
