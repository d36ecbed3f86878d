"""Sweeps as a user runs them, with a trainer that does as it is told in place of the real one."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fsl_jax import sweep, sweep_launch
from fsl_jax.cli import app
from fsl_jax.sweep_command import split_flags

REPOSITORY = Path(__file__).resolve().parent.parent

TRAINER = """
import json, os, signal, sys, time
from pathlib import Path

given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:] if "=" in argument)
workdir, seed = Path(given["workdir"]), given["config.seed"]
plan = json.loads(Path(os.environ["PLAN"]).read_text()).get(seed, [])
before = (workdir / "begun").read_text().split() if (workdir / "begun").exists() else []
(workdir / "begun").write_text(" ".join([*before, str(os.getpid())]))
does = plan[len(before)] if len(before) < len(plan) else "finish"


def save(number, frame):
    (workdir / "saved").write_text(signal.Signals(number).name)
    sys.exit(0)


if does == "wait":
    signal.signal(signal.SIGTERM, save)
    (workdir / "ready").touch()
    print("training", flush=True)
    for _ in range(6000):  # so that a test that fails leaves nothing behind
        if (workdir / "release").exists():
            break
        time.sleep(0.01)
    else:
        sys.exit(9)
elif does == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif does == "stop":
    sys.exit(0)
elif does != "finish":
    print(f"error: told to end with {does}", file=sys.stderr)
    sys.exit(int(does))
(workdir / "result.json").write_text(json.dumps({"accuracy": 0.5 + int(seed) / 10, "steps": 10**6}))
"""
STARTED = """
import sys
from fsl_jax import sweep_launch
sweep_launch.TRAINER = (sys.executable, sys.argv.pop(1))
from fsl_jax.cli import app
app()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the trainer, whose plan says by seed what each of a run's processes does."""

    class Place:
        root = tmp_path / "root"
        trainer = tmp_path / "trainer.py"

        @staticmethod
        def plan(**does):
            (tmp_path / "plan.json").write_text(
                json.dumps({seed.strip("s"): each for seed, each in does.items()})
            )

        @staticmethod
        def arguments(*more):
            return [
                "sweep",
                "run",
                "--config",
                "maml:smoke",
                "--root",
                str(tmp_path / "root"),
                *map(str, more),
            ]

        @classmethod
        def sweep(cls, *more):
            return CliRunner().invoke(app, cls.arguments(*more))

        @classmethod
        def start(cls, *more):
            return subprocess.Popen(
                [sys.executable, "-c", STARTED, str(cls.trainer), *cls.arguments(*more)],
                cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip

        @classmethod
        def processes(cls, seed):
            file = cls.root / f"seed={seed}" / "begun"
            return [int(number) for number in file.read_text().split()] if file.exists() else []

        @classmethod
        def has(cls, seed, name):
            return (cls.root / f"seed={seed}" / name).exists()

    Place.trainer.write_text(TRAINER)
    Place.plan()
    monkeypatch.setenv("PLAN", str(tmp_path / "plan.json"))
    monkeypatch.setattr(sweep_launch, "TRAINER", (sys.executable, str(Place.trainer)))
    monkeypatch.setattr(sweep_launch, "_PAUSE", 0.01)
    return Place


def wait_for(true, process=None):
    for _ in range(1500):
        if true():
            return
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError("it did not happen in 30 s")


def test_each_run_is_told_and_listed(place):
    done = place.sweep("--seeds", 2)
    assert done.exit_code == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[:2] == ["runs: 2, 0 done, 2 to go", "[1/2] seed=0: begins"]
    assert lines[2].startswith("[1/2] seed=0: done in 0 s, accuracy 0.500")
    assert lines[-1] == f"2 of 2 runs done; results: fsl-jax sweep table --root {place.root}"
    listed = json.loads((place.root / "sweep.json").read_text())
    assert listed["config"] == "maml:smoke"
    assert [(run["name"], run["settings"]) for run in listed["runs"]] == [
        (f"seed={i}", {"seed": i}) for i in range(2)
    ]
    assert (place.root / "seed=0" / "output.log").read_text() == f"$ {listed['runs'][0]['command']}\n"


def test_a_dry_run_prints_the_commands_and_leaves_nothing(place):
    done = place.sweep("--seeds", 2, "--dry-run", "--config.train.steps", "40")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"python -m fsl_jax.main --config maml:smoke --config.train.steps=40 --config.seed={seed} "
        f"--workdir={place.root}/seed={seed}"
        for seed in range(2)
    ]
    assert not place.root.exists()


def test_what_is_done_is_not_run_again(place):
    place.sweep("--seeds", 1)
    done = place.sweep("--seeds", 3)
    assert "runs: 3, 1 done, 2 to go" in done.stderr
    assert [len(place.processes(seed)) for seed in range(3)] == [1, 1, 1]


def test_a_failure_stops_no_other_run_and_is_tried_again(place):
    place.plan(s0=["2"], s1=["die"], s2=["stop"])
    done = place.sweep("--seeds", 4)
    assert done.exit_code == 3
    reasons = {
        0: "status 2: error: told to end with 2",
        1: "killed by SIGKILL",
        2: "ended without its result",
    }
    for seed, reason in reasons.items():
        assert f"failed: seed={seed}: {reason}\n" in done.stderr
        assert json.loads((place.root / f"seed={seed}" / "failed.json").read_text())["reason"] == reason
    assert f"see {place.root}/seed=0/output.log" in done.stderr
    assert "1 of 4 runs done" in done.stderr
    again = place.sweep("--seeds", 4)
    assert again.exit_code == 0
    assert [len(place.processes(seed)) for seed in range(4)] == [2, 2, 2, 1]
    assert not place.has(0, "failed.json")


def test_status_75_is_given_the_same_command_again(place):
    place.plan(s0=["75", "75", "75"], s1=["75"] * 4)
    done = place.sweep("--seeds", 2)
    assert done.exit_code == 3
    assert "seed=0: asks for the same command again (3 of 3)" in done.stderr
    assert (
        "failed: seed=1: asked 4 times for the same command again: error: told to end with 75" in done.stderr
    )
    assert [len(place.processes(seed)) for seed in range(2)] == [4, 4]
    assert place.has(0, "result.json")
    assert not place.has(1, "result.json")


def test_so_many_run_at_a_time(place):
    place.plan(s0=["wait"], s1=["wait"], s2=["wait"])
    process = place.start("--seeds", 3, "--jobs", 2)
    wait_for(lambda: place.has(0, "ready") and place.has(1, "ready"), process)
    time.sleep(0.3)
    assert not place.has(2, "begun")
    (place.root / "seed=1" / "release").touch()
    wait_for(lambda: place.has(2, "ready"), process)
    for seed in (0, 2):
        (place.root / f"seed={seed}" / "release").touch()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.index("[2/3] seed=1: done") < err.index("[3/3] seed=2: begins")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)]
)
def test_a_stopped_sweep_lets_its_runs_save_and_goes_on_later(place, number, status):
    place.plan(s0=["finish"], s1=["wait"], s2=["wait"])
    process = place.start("--seeds", 4, "--jobs", 2)
    wait_for(lambda: place.has(1, "ready") and place.has(2, "ready"), process)
    os.killpg(process.pid, number)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    for seed in (1, 2):
        assert (place.root / f"seed={seed}" / "saved").read_text() == "SIGTERM"
        assert f"seed={seed}: stopped" in err
        assert not place.has(seed, "failed.json")
    assert not place.has(3, "begun")
    asked_by = "SIGINT" if number == signal.SIGINT else "SIGTERM"
    assert f"{asked_by}: the same command continues from there" in err
    assert place.sweep("--seeds", 4).exit_code == 0
    assert [len(place.processes(seed)) for seed in range(4)] == [1, 2, 2, 1]


def test_ctrl_c_once_more_kills_what_does_not_save(place):
    place.plan(s0=["wait"])
    place.trainer.write_text(TRAINER.replace("sys.exit(0)\n\n", "time.sleep(60)\n\n", 1))
    process = place.start("--seeds", 1)
    wait_for(lambda: place.has(0, "ready"), process)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: place.has(0, "saved"), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    with pytest.raises(ProcessLookupError):
        os.kill(place.processes(0)[0], 0)


def test_a_run_that_a_killed_sweep_has_left_keeps_a_second_one_out(place):
    place.plan(s0=["wait"])
    process = place.start("--seeds", 1)
    wait_for(lambda: place.has(0, "ready"), process)
    refused = place.sweep("--seeds", 1)
    assert refused.exit_code == 1
    assert "still goes on in" in refused.stderr
    process.kill()
    process.communicate()
    assert place.sweep("--seeds", 1).exit_code == 1
    (place.root / "seed=0" / "release").touch()
    wait_for(lambda: place.has(0, "result.json"))
    wait_for(lambda: place.sweep("--seeds", 1).exit_code == 0)
    assert len(place.processes(0)) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "maml:smoke has no get_sweep(preset)"),
        (["--seeds", "1", "--config.train.stesp=5"], "no config option 'train.stesp'"),
        (["--seeds", "1", "--workdir=x"], "'--workdir=x' is no flag of a sweep or of its runs"),
        (["--seeds", "1", "--cpu_devices=many"], "--cpu_devices=many: invalid literal"),
        (["--seeds", "1", "extra"], "'extra' is no flag of a sweep"),
        (["--seeds", "1", "--launcher", "sge"], "no launcher 'sge': local or slurm"),
        (["--seeds", "1", "--slurm", "partition=gpu"], "--slurm is for --launcher slurm"),
    ],
)
def test_a_wrong_command_is_one_line_and_runs_nothing(place, more, message):
    done = place.sweep(*more)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not place.root.exists()


def test_flags_of_runs_are_passed_on():
    given = ["--config.a.b", "-1", "--noconfig.c", "--config.d=x y", "--config.e", "--cpu_devices=2"]
    assert split_flags(given) == (
        ["--config.a.b=-1", "--noconfig.c", "--config.d=x y", "--config.e"],
        ["--cpu_devices=2"],
    )


# A SLURM of one machine: sbatch starts what the real one would start, with its environment, and srun runs it.
SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path
here, script = Path({folder!r}), Path(sys.argv[1])
text = script.read_text()
array = re.search(r"--array=0-(\\d+)%(\\d+)", text)
tasks = [None] if array is None else range(int(array.group(1)) + 1)
(here / "submitted").open("a").write(text)


def queue(names):
    (here / "queue.new").write_text("\\n".join(names))
    os.replace(here / "queue.new", here / "queue")


names = ["77" if task is None else f"77_{{task}}" for task in tasks]
queue(names)
print("Submitted batch job 77", flush=True)
if os.fork():
    os._exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
for task, name in zip(tasks, names):
    environment = {{**os.environ, "SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}}
    if task is not None:
        environment |= {{"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task)}}
    while True:
        subprocess.run(["bash", str(script)], env=environment)
        if not (here / f"requeue_{{name}}").exists():
            break
        (here / f"requeue_{{name}}").unlink()
    queue([each for each in (here / "queue").read_text().split() if each != name])
"""
SRUN = """#!{python}
import os, sys
from pathlib import Path
left = sys.argv[1:]
while left[0].startswith("--"):
    left = left[1 if left[0] == "--unbuffered" else 2:]
with (Path({folder!r}) / "jobs.log").open("ab") as log:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
(Path({folder!r}) / "pid").write_text(str(os.getpid()))
os.execvp(left[0], left)
"""
SQUEUE = """#!/bin/sh
cat {folder}/queue
"""
SCONTROL = """#!/bin/sh
touch {folder}/requeue_$2
"""


@pytest.fixture
def slurm(place, tmp_path, monkeypatch):
    """A SLURM whose jobs run the trainer."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text.format(python=sys.executable, folder=str(folder)))
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    (folder / "queue").touch()
    # The trainer that stands in must do so in the jobs too.
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'submitit' in ' '.join(sys.orig_argv):\n"
        "    from fsl_jax import sweep_launch\n"
        f"    sweep_launch.TRAINER = (sys.executable, {str(place.trainer)!r})\n"
    )
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    known = [str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, known)))
    place.slurm = folder
    place.submit = classmethod(
        lambda cls, *more: cls.sweep("--launcher", "slurm", "--slurm", "timeout_min=60", *more)
    )
    yield place
    wait_for(lambda: not (folder / "queue").read_text().split())


def test_an_array_job_runs_what_is_left(slurm):
    slurm.plan(s0=["finish"], s1=["75"], s2=["2"])
    assert slurm.sweep("--seeds", 1).exit_code == 0
    done = slurm.submit("--seeds", 4, "--jobs", 2, "--slurm", "partition=gpu", "--slurm", "gpus_per_node=1")
    assert done.exit_code == 0, done.stderr
    assert "submitted 3 runs as job 77" in done.stderr
    assert f"results: fsl-jax sweep table --root {slurm.root}" in done.stderr
    wait_for(lambda: not (slurm.slurm / "queue").read_text().split())
    assert [slurm.has(seed, "result.json") for seed in range(4)] == [True, True, False, True]
    assert [len(slurm.processes(seed)) for seed in range(4)] == [1, 2, 1, 1]
    assert json.loads((slurm.root / "seed=2" / "failed.json").read_text())["status"] == 2
    script = (slurm.slurm / "submitted").read_text()
    for line in ("array=0-2%2", "partition=gpu", "gpus-per-node=1", "time=60", "job-name=root"):
        assert f"#SBATCH --{line}\n" in script
    assert sweep.known_jobs(slurm.root) == {f"seed={seed}": f"77_{seed - 1}" for seed in (1, 2, 3)}


def test_runs_in_the_queue_are_not_submitted_again(slurm):
    slurm.plan(s0=["wait"])
    assert slurm.submit("--seeds", 1).exit_code == 0
    wait_for(lambda: slurm.has(0, "ready"))
    again = slurm.submit("--seeds", 1)
    assert "runs: 1, 0 done, 0 to go, 1 in SLURM's queue" in again.stderr
    assert "0 to go, 1 in SLURM's queue" in slurm.sweep("--seeds", 1).stderr
    (slurm.root / "seed=0" / "release").touch()
    wait_for(lambda: slurm.has(0, "result.json"))
    assert len(slurm.processes(0)) == 1


def test_a_job_whose_time_is_up_saves_and_is_queued_again(slurm):
    slurm.plan(s0=["wait"], s1=["wait"])
    assert slurm.submit("--seeds", 2).exit_code == 0
    for seed in range(2):
        wait_for(lambda seed=seed: slurm.has(seed, "ready"))
        # As SLURM does, to the job's processes all.
        os.kill(slurm.processes(seed)[0], signal.SIGUSR2)
        os.kill(int((slurm.slurm / "pid").read_text()), signal.SIGUSR2)
        wait_for(lambda seed=seed: slurm.has(seed, "result.json"))
        assert (slurm.root / f"seed={seed}" / "saved").read_text() == "SIGTERM"
        assert len(slurm.processes(seed)) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--slurm", "partitoin=gpu"], "cannot submit: .*partitoin"),
        (["--slurm", "nodes=2"], "nodes=2: a run is one process"),
        (["--slurm", "gpus_per_node=many"], "cannot submit: .*gpus_per_node"),
        (["--slurm", "partition"], "'partition' is not key=value"),
    ],
)
def test_a_wrong_option_of_slurm_is_one_line(slurm, more, message):
    done = slurm.submit("--seeds", 2, *more)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert re.search(message, done.stderr.splitlines()[-1])
    assert not (slurm.slurm / "submitted").exists()


def test_slurms_own_refusal_is_told(slurm):
    (slurm.slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    done = slurm.submit("--seeds", 2)
    assert done.exit_code == 1
    assert "error: cannot submit: " in done.stderr
    assert "sbatch: error: invalid partition" in done.stderr


def test_the_time_of_a_job_must_be_given(slurm):
    done = slurm.sweep("--seeds", 1, "--launcher", "slurm")
    assert done.exit_code == 1
    assert "give --slurm timeout_min=MINUTES" in done.stderr


def test_without_slurm_nothing_is_submitted(place, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    done = place.sweep("--seeds", 1, "--launcher", "slurm", "--slurm", "timeout_min=5")
    assert done.exit_code == 1
    assert 'cannot submit: Could not detect "srun"' in done.stderr


def test_without_submitit_it_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    done = place.sweep("--seeds", 1, "--launcher", "slurm", "--slurm", "timeout_min=5")
    assert done.exit_code == 1
    assert "pip install 'fsl_jax[sweep]'" in done.stderr
