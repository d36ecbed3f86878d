"""launch/skypilot.yaml: what its nodes run."""

import subprocess
from pathlib import Path

import pytest
import yaml
from launching import LAUNCH, RECORDER, recorded, stand_ins

TASK = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


@pytest.fixture
def environment(tmp_path):
    """A home with an environment in it, as setup leaves it, and stand-ins for the programs."""
    activate = tmp_path / "fsl_jax_environment" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")
    return {**stand_ins(tmp_path / "bin", python=RECORDER, uv=RECORDER), "HOME": str(tmp_path)}


def test_each_node_runs_one_process_and_the_first_is_the_coordinator(environment):
    variables = {
        "FLAGS": "--config configs/maml.py --workdir '/runs/a b'",
        "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6\n10.0.0.7",
        "SKYPILOT_NUM_NODES": "3",
        "SKYPILOT_NODE_RANK": "2",
    }
    subprocess.run(["bash", "-euc", TASK["run"]], env={**environment, **variables}, check=True)
    assert recorded(environment) == [
        [
            *("python", "-m", "fsl_jax.main", "--distributed", "--coordinator", "10.0.0.5:8476"),
            *("--num_processes", "3", "--process_id", "2"),
            *("--config", "configs/maml.py", "--workdir", "/runs/a b"),
        ]
    ]


@pytest.mark.parametrize("again", [False, True])
def test_setup_makes_the_environment_once(environment, again):
    made = Path(environment["HOME"]) / "fsl_jax_environment"
    if not again:
        made.rename(f"{made}_later")
        uv = RECORDER + '[[ "$1" != venv ]] || mv "$4_later" "$4"\n'
        stand_ins(Path(environment["RECORD"]).parent, uv=uv)
    subprocess.run(["bash", "-c", TASK["setup"]], env=environment, check=True)
    commands = [" ".join(command) for command in recorded(environment)]
    assert commands == [
        *([] if again else [f"uv venv --python 3.12 {made}"]),
        "uv pip install .[pretrained] jax[cuda12]",
    ]


def test_the_run_goes_on_by_itself_after_a_lost_process_and_needs_its_flags():
    assert TASK["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}
    assert TASK["envs"] == {"FLAGS": None}
    assert TASK["volumes"] == {"/runs": "fsl-jax-runs"}
