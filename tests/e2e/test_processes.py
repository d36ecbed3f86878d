"""One run in several processes, as a launcher starts it: the same result, one save, and a clear end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Small networks, since each run compiles its own; twenty steps.
STEPS = [f"--config.train.{name}" for name in ("steps=20", "steps_per_call=5", "save_every=20")]
SMALL = [f"--config.eval.{name}" for name in ("every=0", "grid.ways=()")] + ["--config.optimizer.name=sgd"]
CHILDREN: list[subprocess.Popen] = []
# Starts Python under a limit of the files' size. Not as `preexec_fn`, which runs after a fork of this process: where
# JAX has threads by then, that may lock up, and JAX warns of it.
LIMITED = """
import os, resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
SMALL_CONV4 = [*SMALL, "--config.model.options.filters=8", "--config.model.options.formulation=lax"]
PROTONET = ["--config=configs/protonet.py:smoke", *SMALL_CONV4, "--config.optimizer.learning_rate=0.001"]
# With ten times the rate, MAML's steps are so long that each multiplies the difference before it.
RATES = {"maml": 0.0001, "protonet": 0.001, "triplet": 0.001}


def smooth(method):
    """Flags of a run that rounding on other devices does not part from itself."""
    tasks = [] if method == "triplet" else ["--config.episode.tasks=8"]
    rate = f"--config.optimizer.learning_rate={RATES[method]}"
    return [f"--config=tests/e2e/smooth.py:{method}", *SMALL, *tasks, rate]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Compiled programs are shared by the runs of this file."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "FSL_JAX_COMPILATION_CACHE": str(tmp_path_factory.mktemp("compiled")),
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    while CHILDREN:
        child = CHILDREN.pop()
        child.kill()
        child.communicate()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(environment, workdir, *flags, processes=1, devices=1, only=None, port=None, largest_file=None):
    """Starts the processes of a run, or some of them; no file of theirs may grow beyond `largest_file` bytes."""
    port, children = port or free_port(), []
    for i in range(processes) if only is None else only:
        of_several = [
            "--distributed", "--coordinator", f"127.0.0.1:{port}", "--num_processes", processes, "--process_id", i
        ]  # fmt: skip
        limit = [] if largest_file is None else ["-c", LIMITED, largest_file]
        command = [
            sys.executable,
            *limit,
            "-m",
            "fsl_jax.main",
            "--workdir",
            workdir,
            "--cpu_devices",
            devices,
            *flags,
        ]
        command += of_several if processes > 1 else []
        children.append(
            subprocess.Popen(
                list(map(str, command)),
                cwd=REPOSITORY,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        CHILDREN.append(children[-1])
    return children


def ended(children, timeout=400):
    """Waits for all; returns (status, stderr) of each."""
    told = [child.communicate(timeout=timeout)[1] for child in children]
    return [(child.returncode, text) for child, text in zip(children, told, strict=True)]


def run(environment, workdir, *flags, **topology):
    for status, text in ended(started(environment, workdir, *flags, **topology)):
        assert status == 0, text[-3000:]
    return workdir


def parameters(workdir, step):
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.StandardCheckpointer() as reader:
        meta = reader.metadata(folder).item_metadata["variables"]["params"]
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here), meta)
        state = ocp.PyTreeCheckpointer().restore(
            folder,
            args=ocp.args.PyTreeRestore(
                {"variables": {"params": like}},
                restore_args={"variables": {"params": ocp.checkpoint_utils.construct_restore_args(like)}},
                partial_restore=True,
            ),
        )
    return jax.tree.map(np.asarray, state["variables"]["params"])


def assert_close(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def alone(environment, tmp_path_factory):
    """Returns (parameters, result, lines of its log) of a method's run in one process on one device, made once."""
    made = {}

    def of(method):
        if method not in made:
            flags, folder = [*smooth(method), *STEPS], tmp_path_factory.mktemp(method)
            early = run(environment, folder / "five steps", *flags, "--config.train.steps=5")
            workdir = run(environment, folder / "1x1", *flags)
            with pytest.raises(AssertionError):  # what is compared has moved much further than the tolerance
                assert_close(parameters(early, 5), parameters(workdir, 20), 1e-4)
            made[method] = parameters(workdir, 20), *told_by(workdir)
        return made[method]

    return of


def told_by(workdir):
    """Returns the result, and the number of lines of the log."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return json.loads((workdir / "result.json").read_text()), len(lines)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 4), (4, 2)])
@pytest.mark.parametrize("method", RATES)
def test_any_number_of_processes_and_devices_gives_the_same_run(
    environment, alone, tmp_path, method, processes, devices
):
    first, result, lines = alone(method)
    flags = [*smooth(method), *STEPS]
    workdir = run(environment, tmp_path / "run", *flags, processes=processes, devices=devices)
    assert_close(first, parameters(workdir, 20), 1e-5)
    other, written = told_by(workdir)
    assert other["mAP"] == pytest.approx(result["mAP"], abs=1e-6)
    assert other.get("accuracy") == result.get("accuracy")
    assert written == lines  # one process writes


@pytest.mark.slow
def test_two_processes_take_the_first_steps_of_a_convolutional_network_as_one_does(environment, tmp_path):
    """Later ones part by rounding; see `smooth`."""
    flags = ["--config=configs/maml.py:smoke", *SMALL_CONV4, "--config.episode.tasks=8"]
    flags += ["--config.optimizer.learning_rate=0.0002", "--config.eval.retrieval=False"]
    flags += [f"--config.train.{name}=2" for name in ("steps", "steps_per_call", "save_every", "log_every")]
    one = run(environment, tmp_path / "one", *flags)
    two = run(environment, tmp_path / "two", *flags, processes=2, devices=4)
    assert_close(parameters(one, 2), parameters(two, 2), 1e-5)
    told = [json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1]) for workdir in (one, two)]
    norms = [each["train/gradient_norm"] for each in told]
    assert norms[0] > 1
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


LONG = [
    f"--config.train.{name}" for name in ("steps=4000", "steps_per_call=2", "save_every=20", "log_every=20")
]


def wait_until(condition, children, *, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert all(child.poll() is None for child in children), "a process has ended"
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)


def whole_steps(workdir):
    """Checkpoints that are whole: Orbax gives a folder its name at the end."""
    folder = workdir / "checkpoints"
    return (
        sorted(int(each.name) for each in folder.glob("*") if each.name.isdigit()) if folder.exists() else []
    )


@pytest.mark.slow
def test_sigterm_of_one_saves_in_both_and_one_process_ends_the_run_as_if_undisturbed(environment, tmp_path):
    flags, workdir = smooth("protonet"), tmp_path / "stopped"
    children = started(environment, workdir, *flags, *LONG, processes=2)
    wait_until(lambda: whole_steps(workdir), children)
    children[1].send_signal(signal.SIGTERM)
    for status, text in ended(children, timeout=120):
        assert status == 0, text[-3000:]
    (step,) = whole_steps(workdir)[-1:]
    assert step % 20  # saved when it was asked to, not when it was due
    steps = [f"--config.train.steps={step + 10}", *LONG[1:]]
    ((_, told),) = ended(started(environment, workdir, *flags, *steps))
    assert f"continuing from step {step:,}" in told
    undisturbed = run(environment, tmp_path / "undisturbed", *flags, *steps)
    assert_close(parameters(workdir, step + 10), parameters(undisturbed, step + 10), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_named_by_the_other_within_a_minute(environment, tmp_path, killed):
    flags, workdir = PROTONET, tmp_path / "killed"
    children = started(environment, workdir, *flags, *LONG, processes=2)
    wait_until(lambda: whole_steps(workdir)[-1:] >= [40], children)
    kept = whole_steps(workdir)[-1]
    children[killed].kill()
    begun = time.monotonic()
    status, told = ended([children[1 - killed]], timeout=60)[0]
    assert time.monotonic() - begun < 60
    assert status == 75
    assert f"process {killed}" in told
    assert "was lost" in told
    assert "the same command continues" in told
    assert "Check failure" not in told
    children[killed].communicate()
    steps = [f"--config.train.steps={kept + 100}", *LONG[1:]]
    status, told = ended(started(environment, workdir, *flags, *steps))[0]
    assert status == 0, told[-3000:]
    assert "continuing from step" in told
    assert whole_steps(workdir)[-1] == kept + 100


@pytest.mark.slow
def test_what_a_killed_save_left_is_told_and_the_checkpoint_before_it_used(environment, tmp_path):
    flags = PROTONET
    workdir = run(environment, tmp_path / "run", *flags, *STEPS)
    unfinished = workdir / "checkpoints" / "25.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints" / "20", unfinished)
    ((status, told),) = ended(started(environment, workdir, *flags, "--config.train.steps=30", *STEPS[1:]))
    assert status == 0, told[-3000:]
    assert "step 25 was not saved whole" in told
    assert "continuing from step 20" in told


@pytest.mark.slow
def test_who_does_not_come_is_told_within_the_stated_time(environment, tmp_path):
    timeout = ["--connect_timeout=8"]
    flags, begun = [*PROTONET, *timeout], time.monotonic()
    ((status, told),) = ended(
        started(environment, tmp_path / "run", *flags, processes=2, only=[1]), timeout=60
    )
    assert (status, told.count("\n")) == (2, 1)
    assert "cannot be reached within 8 s" in told
    assert "is process 0 running there" in told
    ((status, told),) = ended(
        started(environment, tmp_path / "run", *flags, processes=2, only=[0]), timeout=60
    )
    assert status == 75
    assert "not all processes of the run came in time" in told
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_a_workdir_that_cannot_be_written_is_one_clear_error_in_all(environment, tmp_path):
    flags, file = PROTONET, tmp_path / "a file"
    file.write_text("")
    for status, told in ended(started(environment, file / "run", *flags, processes=2), timeout=200):
        assert status == 2, told[-2000:]
        assert "a file" in told
        assert "Traceback" not in told


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--distributed", "--num_processes=2"], "--coordinator and --process_id missing"),
        (["--process_id=1"], "--process_id is of runs in several processes: add --distributed"),
        (
            ["--distributed", "--coordinator=here", "--num_processes=2", "--process_id=1"],
            "--coordinator is 'here'; expected HOST:PORT",
        ),
        (
            ["--distributed", "--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "--process_id is 2 of 2 processes; expected 0 to 1",
        ),
        (["--distributed"], "cannot be found out"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(environment, tmp_path, flags, said):
    ((status, told),) = ended(
        started(environment, tmp_path / "run", "--config=configs/maml.py:smoke", *flags)
    )
    assert (status, told.count("\n")) == (2, 1), told
    assert said in told


@pytest.mark.slow
@pytest.mark.parametrize(("most", "whole"), [(3000, []), (12_000, [20])])
def test_a_disk_that_is_full_ends_all_with_one_clear_error(environment, tmp_path, most, whole):
    """Files may not grow beyond some size: of the config's already, or of the report's alone."""
    flags = [*PROTONET, *STEPS, "--compilation_cache=off"]
    children = started(environment, tmp_path / "run", *flags, processes=2, largest_file=most)
    for status, told in ended(children, timeout=240):
        assert status == 2, told[-2000:]
        assert "Traceback" not in told
        assert re.search(r"error: .*File too large.*(config.json|report.html)", told), told[-2000:]
    assert whole_steps(tmp_path / "run") == whole
