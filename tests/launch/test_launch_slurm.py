"""launch/slurm.sbatch: its decisions with stand-ins, and a real SLURM of one node where there is one."""

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import LAUNCH, PYTHON, RECORDER, REPOSITORY, SMALL, dry, recorded, stand_ins

SCRIPT = LAUNCH / "slurm.sbatch"


def test_the_job_starts_one_process_a_task_with_the_flags():
    assert dry("slurm.sbatch", "--config", "a b", "--workdir=it's") == [
        [
            *("srun", "--kill-on-bad-exit=0", "launch/task.sh", "--distributed"),
            *("--config", "a b", "--workdir=it's"),
        ]
    ]


def test_the_job_may_be_requeued_and_hears_of_its_end_two_minutes_before():
    options = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@120", "#SBATCH --open-mode=append"} <= set(options)


def decided(tmp_path, srun_status, **variables):
    """Runs the job script outside of SLURM, with an srun that ends with this status."""
    srun = f"{RECORDER}echo tasks have ${{SRUN_CPUS_PER_TASK:-no}} cpus\nexit {srun_status}\n"
    environment = stand_ins(tmp_path / "bin", srun=srun, scontrol=RECORDER)
    result = subprocess.run(
        [SCRIPT, "--config", "x"],
        env={**environment, "SLURM_JOB_ID": "7", **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    return result, [command for command in recorded(environment) if command[0] == "scontrol"]


REQUEUED = [["scontrol", "requeue", "7"]]


@pytest.mark.parametrize(
    ("status", "restarts", "commands"),
    [
        (0, None, []),
        (2, None, []),
        (75, None, REQUEUED),
        (1, None, []),
        (137, None, REQUEUED),
        (137, "20", []),
        (75, "19", REQUEUED),
        (75, "20", []),
    ],
)
def test_a_job_goes_back_into_the_queue_where_it_can_continue(tmp_path, status, restarts, commands):
    result, requeued = decided(tmp_path, status, **({"SLURM_RESTART_COUNT": restarts} if restarts else {}))
    assert (result.returncode, requeued) == (status, commands)


def test_the_user_bounds_the_restarts(tmp_path):
    assert decided(tmp_path, 75, MAX_RESTARTS="1", SLURM_RESTART_COUNT="1")[1] == []


def test_tasks_get_the_cpus_that_the_job_asked_for(tmp_path):
    assert decided(tmp_path, 0, SLURM_CPUS_PER_TASK="4")[0].stdout == "tasks have 4 cpus\n"
    assert decided(tmp_path, 0)[0].stdout == "tasks have no cpus\n"


def test_one_gpu_a_task_is_refused_before_anything_starts(tmp_path):
    result, _ = decided(tmp_path, 0, SLURM_GPUS_PER_TASK="1")
    assert result.returncode == 2
    assert "in place of --gpus-per-task" in result.stderr
    assert result.stdout == ""


def test_a_job_elsewhere_than_in_the_repository_says_so(tmp_path):
    result = subprocess.run(
        [SCRIPT, "--config", "x"],
        env={**os.environ, "SLURM_JOB_ID": "7"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert f"no launch/task.sh in {tmp_path}" in result.stderr


CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
# Nobody else can reach these ports' jobs, so no munge; and a credential that lives short lets a job restart soon.
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SchedulerParameters=sched_interval=1,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A SLURM of one node, with its files in a folder."""

    def __init__(self, folder):
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}{os.pathsep}/usr/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self.environment.pop("SLURM_JOB_ID", None)
        needed = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
        if missing := [name for name in needed if not shutil.which(name, path=self.environment["PATH"])]:
            pytest.skip(f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client")
        with socket.socket() as first, socket.socket() as second:
            for opened in (first, second):
                opened.bind(("127.0.0.1", 0))
            ports = [opened.getsockname()[1] for opened in (first, second)]
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=folder,
                host=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                controller_port=ports[0],
                node_port=ports[1],
            )
        )
        version = self.run("slurmd", "-V").split()[-1]
        without_cgroups = "disabled" if float(".".join(version.split(".")[:2])) >= 23.02 else "cgroup/v1"
        (folder / "cgroup.conf").write_text(f"CgroupPlugin={without_cgroups}\n")
        self.folder = folder
        self.daemons = []

    def run(self, *command, **variables):
        result = subprocess.run(
            command,
            env={**self.environment, **variables},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def start(self):
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
            with (self.folder / f"{command[0]}.out").open("w") as output:
                self.daemons.append(
                    subprocess.Popen(command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)
                )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):
                if self.run("sinfo", "--noheader", "--format=%T") == "idle":
                    return
            time.sleep(0.5)
        said = {path.name: path.read_text()[-2000:] for path in self.folder.glob("*.out")}
        pytest.skip(f"SLURM does not start here: {said}")

    def stop(self):
        with contextlib.suppress(AssertionError):
            self.run("scancel", "--user", getpass.getuser())
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(30)

    def submit(self, log, *arguments, options=(), **variables):
        return self.run(
            *("sbatch", "--parsable", "--ntasks=2", f"--output={log}", *options, str(SCRIPT), *arguments),
            **variables,
        )

    def state_of(self, job):
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(pair.split("=", 1) for pair in shown.split() if "=" in pair)

    def wait_until(self, seconds, job, *states):
        """Waits until a job is in one of these states, and returns what SLURM says about it."""
        end = time.monotonic() + seconds
        while (shown := self.state_of(job))["JobState"] not in states:
            assert time.monotonic() < end, shown
            time.sleep(0.3)
        return shown


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def job(cluster, tmp_path):
    """Submits a job whose tasks run a stand-in for python."""
    programs = stand_ins(tmp_path / "bin", python=PYTHON)

    class Job:
        log = tmp_path / "a log"

        def submit(self, does, *options, **variables):
            path = f"{programs['PATH']}{os.pathsep}/usr/sbin"
            given = {"PATH": path, "DOES": json.dumps(does), **variables}
            self.number = cluster.submit(self.log, "--workdir", "a b", options=options, **given)

        def wait_for_lines(self, count, text):
            end = time.monotonic() + 60
            while not self.log.exists() or self.log.read_text().count(text) < count:
                assert time.monotonic() < end, cluster.state_of(self.number)
                time.sleep(0.2)

        def begun(self):
            return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

        def ended(self):
            return cluster.wait_until(90, self.number, *ENDED)

    return Job()


LONG = {process: {"seconds": 120} for process in "01"}


@pytest.mark.slow
def test_two_tasks_run_and_the_job_is_done(job):
    job.submit({})
    ended = job.ended()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0")
    flags = ["-m", "fsl_jax.main", "--distributed", "--workdir", "a b"]
    assert [begun["flags"] for begun in job.begun()] == [flags, flags]


@pytest.mark.slow
def test_a_job_at_its_time_limit_saves_goes_back_into_the_queue_and_continues(job):
    job.submit(LONG, "--time=1")
    ended = job.ended()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    log = job.log.read_text()
    assert log.count("received SIGTERM") == log.count("saved") == 2
    restarts = [begun["environment"].get("SLURM_RESTART_COUNT") for begun in job.begun()]
    assert restarts == [None, None, "1", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 137])
def test_a_job_that_lost_a_process_continues(job, lost):
    job.submit({"0": {"status": 75, "seconds": 1}, "1": {"status": lost}})
    ended = job.ended()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")


@pytest.mark.slow
def test_a_mistake_of_the_user_ends_the_job(job):
    job.submit({process: {"status": 2} for process in "01"})
    ended = job.ended()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0")


@pytest.mark.slow
def test_a_cancelled_job_saves_and_does_not_come_back(cluster, job):
    job.submit(LONG)
    job.wait_for_lines(2, '"pid"')
    cluster.run("scancel", job.number)
    job.wait_for_lines(2, "saved")
    time.sleep(5)
    ended = job.ended()
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    assert job.log.read_text().count("received SIGTERM") == 2


@pytest.mark.slow
def test_two_real_tasks_train_together(cluster, tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{cluster.environment['PATH']}"
    workdir, log = tmp_path / "a run", tmp_path / "log"
    flags = (*SMALL, "--workdir", str(workdir), "--cpu_devices", "1")
    job = cluster.submit(log, *flags, PATH=path, JAX_PLATFORMS="cpu")
    ended = cluster.wait_until(600, job, *ENDED)
    assert ended["JobState"] == "COMPLETED", log.read_text()
    assert (workdir / "result.json").is_file()
