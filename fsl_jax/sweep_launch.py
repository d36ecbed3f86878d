"""Runs the runs of a sweep: as processes of this machine, or as an array job of SLURM."""

import dataclasses
import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import logging

from fsl_jax.sweep import FAILED, LOG, RESULT, Run, read_json
from fsl_jax.workdir import write_json

TRAINER = (sys.executable, "-m", "fsl_jax.main")
AGAIN, RETRIES = 75, 3
"""The exit status by which a run asks for the same command again, and how often it is given again."""
MEASURES = ("accuracy", "mAP")
"""What a line says of a run's result."""
_PAUSE = 0.1
_IN_A_JOB = 0.5
_OF_SUBMITIT = frozenset({signal.SIGUSR1, signal.SIGUSR2})
_PER_RUN = ("nodes", "tasks_per_node")

Say = Callable[[str], None]


@dataclasses.dataclass
class Outcome:
    """What became of runs.

    Attributes:
      done: How many have a result.
      failed: Why, by the run's name.
      asked_by: The signal that stopped the sweep, or None.
    """

    done: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    asked_by: signal.Signals | None = None


@dataclasses.dataclass
class Going:
    """A run that goes on.

    Attributes:
      run: What it is.
      process: Its trainer.
      begun: When it was begun first.
      retried: How often it has asked for the same command again.
    """

    run: Run
    process: subprocess.Popen[bytes]
    begun: float
    retried: int = 0


@contextmanager
def locked(root: Path) -> Iterator[int]:
    """Holds a sweep's root against a second sweep, which would write into the same workdirs.

    Yields:
      File descriptor of the lock. A run that is handed it holds the root too, even when this process is killed.

    Raises:
      ValueError: Another sweep, or one of its runs, still goes on.
    """
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"a sweep, or a run that one has left, still goes on in {root}: wait for it, or stop it"
            ) from error
        except OSError as error:
            logging.warning("%s cannot be locked (%s): start no second sweep in it", root, error)
        yield stream.fileno()


def run_locally(runs: Sequence[Run], *, jobs: int, lock: int, say: Say) -> Outcome:
    """Runs so many at a time, each in a process of its own, until all are done or it is asked to stop.

    SIGINT, SIGTERM or SIGHUP stop it: runs that go on are sent SIGTERM, save and end. SIGINT once more kills them.

    Args:
      runs: In this order.
      jobs: So many at a time.
      lock: Of `locked`.
      say: Told each run's begin and end.
    """
    from fsl_jax.training.loop import Stop

    outcome, waiting, going = Outcome(), deque(enumerate(runs, start=1)), dict[int, Going]()
    with Stop().listening() as stop, _hangup_terminates():
        try:
            while going or (waiting and stop.asked_by is None):
                while waiting and len(going) < jobs and stop.asked_by is None:
                    number, run = waiting.popleft()
                    say(f"[{number}/{len(runs)}] {run.name}: begins")
                    going[number] = Going(run, begin(run, lock=lock), time.monotonic())
                if stop.asked_by is not None and outcome.asked_by is None:
                    outcome.asked_by = stop.asked_by
                    _stop(going.values(), say)
                time.sleep(_PAUSE)
                for number in [number for number, each in going.items() if each.process.poll() is not None]:
                    told = _ended(going, number, outcome, lock=lock)
                    say(f"[{number}/{len(runs)}] {told}")
        except KeyboardInterrupt:  # asked a second time
            outcome.asked_by = signal.SIGINT
        finally:
            for each in going.values():
                each.process.kill()
                each.process.wait()
    return outcome


@contextmanager
def _hangup_terminates() -> Iterator[None]:
    """Takes the end of the terminal as SIGTERM, unless it is ignored, as under nohup."""
    before = signal.getsignal(signal.SIGHUP)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _stop(going: Collection[Going], say: Say) -> None:
    if going:
        say(f"stopping {len(going)} of the runs: each saves first; Ctrl-C once more kills them")
    for each in going:
        each.process.terminate()


def _ended(going: dict[int, Going], number: int, outcome: Outcome, *, lock: int) -> str:
    """Takes note of a process that has ended, begins it again where it asks for that, and says what is to be said."""
    each = going.pop(number)
    run, status, seconds = each.run, each.process.returncode, time.monotonic() - each.begun
    if status == 0 and run.state == "done":
        outcome.done += 1
        return f"{run.name}: done in {_took(seconds)}{_figures(run)}"
    if outcome.asked_by is not None:
        return f"{run.name}: stopped"
    if status == AGAIN and each.retried < RETRIES:
        each.process, each.retried = begin(run, lock=lock), each.retried + 1
        going[number] = each
        return f"{run.name}: asks for the same command again ({each.retried} of {RETRIES})"
    outcome.failed[run.name] = why(run, status)
    return f"{run.name}: failed after {_took(seconds)}, {outcome.failed[run.name]}; see {run.workdir / LOG}"


def _took(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _figures(run: Run) -> str:
    result = read_json(run.workdir / RESULT)
    shown = [f"{name} {result[name]:.3f}" for name in MEASURES if isinstance(result.get(name), float)]
    return "".join(f", {figure}" for figure in shown)


def begin(run: Run, *, lock: int | None = None) -> subprocess.Popen[bytes]:
    """Starts a run's trainer, whose output goes to output.log in its workdir.

    Args:
      run: What to run; the same command continues what is there.
      lock: Descriptor that it inherits. With one it has a session of its own, so that Ctrl-C reaches this process
        alone; without, as in a job of SLURM, it stays where the job's signals and limits reach it.
    """
    run.workdir.mkdir(parents=True, exist_ok=True)
    (run.workdir / FAILED).unlink(missing_ok=True)
    # The signals by which submitit is told of a job's end would end a trainer that does not know them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_SUBMITIT)
    try:
        with (run.workdir / LOG).open("ab") as log:
            log.write(f"$ {run.command}\n".encode())
            log.flush()
            return subprocess.Popen(
                [*TRAINER, *run.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=() if lock is None else (lock,),
                start_new_session=lock is not None,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def why(run: Run, status: int) -> str:
    """Says why a run has failed, and leaves it in its failed.json."""
    lines = [line.strip() for line in _end_of(run.workdir / LOG).splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines and not lines[-1].startswith("$ ") else ""
    if status == 0:
        reason = f"ended without its result{last}"
    elif status == AGAIN:
        reason = f"asked {RETRIES + 1} times for the same command again{last}"
    elif status < 0:
        reason = f"killed by {signal.Signals(-status).name}{last}"
    else:
        reason = f"status {status}{last}"
    write_json(run.workdir / FAILED, {"status": status, "reason": reason})
    return reason


def _end_of(file: Path, *, most: int = 10_000) -> str:
    with file.open("rb") as stream:
        stream.seek(max(file.stat().st_size - most, 0))
        return stream.read().decode(errors="replace")


class Job:
    """A run as a job of SLURM, in the shape that submitit takes: called, and told when the job's time is up."""

    def __init__(self, run: Run) -> None:
        """Starts nothing."""
        self.run = run
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Runs it in the job.

        Raises:
          RuntimeError: It has failed; submitit reports it to SLURM.
        """
        for _ in range(RETRIES + 1):
            self._process = begin(self.run)
            # Not wait(): `checkpoint` is called by a signal's handler, which would find its lock taken.
            while self._process.poll() is None:
                time.sleep(_IN_A_JOB)
            status = self._process.returncode
            if status == 0 and self.run.state == "done":
                return
            if status != AGAIN:
                break
        raise RuntimeError(f"{self.run.name}: {why(self.run, status)}; see {self.run.workdir / LOG}")

    def checkpoint(self) -> Any:
        """Ends the trainer, which saves, and returns what submitit is to run when the job comes back."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            try:
                os.kill(self._process.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            except (ProcessLookupError, ChildProcessError):  # it has ended
                pass
        return DelayedSubmission(Job(self.run))


def submit(runs: Sequence[Run], root: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Submits runs as one array job, through submitit.

    Args:
      runs: At least one.
      root: Whose folder "slurm" keeps the jobs' own files.
      options: Of submitit's executor: partition, timeout_min, gpus_per_node, array_parallelism and so on.

    Returns:
      SLURM's job by the run's name.

    Raises:
      ValueError: submitit or SLURM is not here, or will not have an option.
    """
    try:
        import submitit
    except ImportError as error:
        raise ValueError("--launcher slurm needs submitit: pip install 'fsl_jax[sweep]'") from error

    chosen = dict(options)
    if "timeout_min" not in chosen:
        raise ValueError("give --slurm timeout_min=MINUTES; submitit's own default are 5")
    for name in _PER_RUN:
        if chosen.get(name, 1) != 1:
            raise ValueError(f"--slurm {name}={chosen[name]}: a run is one process; leave it out")
    timeouts = {"slurm_max_num_timeout": chosen.pop("max_num_timeout")} if "max_num_timeout" in chosen else {}
    general = {
        "name",
        "timeout_min",
        "mem_gb",
        "cpus_per_task",
        "gpus_per_node",
        "stderr_to_stdout",
        *_PER_RUN,
    }
    named = {name if name in general else f"slurm_{name}": value for name, value in chosen.items()}
    try:
        executor = submitit.AutoExecutor(folder=root / "slurm", cluster="slurm", **timeouts)
        executor.update_parameters(**{"name": root.absolute().name, **named})
        with executor.batch():
            jobs = [executor.submit(Job(run)) for run in runs]
    # What submitit raises for a wrong option, for a machine without SLURM, and where sbatch refuses.
    except (NameError, AssertionError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"cannot submit: {' '.join(str(error).split())}") from error
    return {run.name: job.job_id for run, job in zip(runs, jobs, strict=True)}


def still_queued(jobs: Mapping[str, str]) -> list[str]:
    """Lists the runs whose job SLURM still has, waiting or running.

    Args:
      jobs: SLURM's job by the run's name.

    Raises:
      ValueError: squeue is there, and does not answer.
    """
    if not jobs or shutil.which("squeue") is None:
        return []
    asked = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"squeue does not say which runs are queued: {' '.join(done.stderr.split())}")
    there = set(done.stdout.split())
    return [name for name, job in jobs.items() if job in there]
