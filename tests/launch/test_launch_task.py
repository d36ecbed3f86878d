"""launch/task.sh: what a scheduler is told about a training that was stopped."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from launching import LAUNCH, PYTHON, stand_ins


@pytest.fixture
def environment(tmp_path):
    return stand_ins(tmp_path / "programs", python=PYTHON)


def running(environment, does, *before):
    launched = subprocess.Popen(
        [*before, LAUNCH / "task.sh", "--distributed", "--workdir", "a b"],
        env={**environment, "DOES": json.dumps({"0": does})},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun = json.loads(launched.stdout.readline())
    assert begun["flags"] == ["-m", "fsl_jax.main", "--distributed", "--workdir", "a b"]
    return launched


@pytest.mark.parametrize("status", [0, 1, 2, 75])
def test_a_training_that_nobody_stopped_keeps_its_status(environment, status):
    launched = running(environment, {"status": status})
    launched.communicate(timeout=30)
    assert launched.returncode == status


def signalled_as_by_slurm(launched):
    os.killpg(launched.pid, signal.SIGTERM)


def test_a_signal_to_all_processes_reaches_the_training_once_and_is_not_the_end_of_the_work(environment):
    launched = running(environment, {"seconds": 60})
    signalled_as_by_slurm(launched)
    output, _ = launched.communicate(timeout=30)
    assert output.splitlines() == ["received SIGTERM", "saved"]
    assert launched.returncode == 75


@pytest.mark.parametrize(("does", "status"), [({"status": 1}, 1), ({"status": 2}, 2), ({"deaf": True}, 75)])
def test_a_stopped_training_that_fails_has_failed_and_one_that_was_too_young_to_save_has_not(
    environment, does, status
):
    launched = running(environment, {"seconds": 60, **does})
    signalled_as_by_slurm(launched)
    launched.communicate(timeout=30)
    assert launched.returncode == status


def test_a_signal_to_a_container_is_passed_on_to_the_training(environment):
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("a process namespace of its own needs unshare, and root")
    launched = running(environment, {"seconds": 60}, *unshare)
    first = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    assert len(first) == 1
    os.kill(int(first[0]), signal.SIGTERM)
    output, _ = launched.communicate(timeout=30)
    assert output.splitlines() == ["received SIGTERM", "saved"]
    assert launched.returncode == 75
