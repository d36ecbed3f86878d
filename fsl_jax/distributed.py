"""One run in several processes: joining them, telling the first from the others, and ending when one is lost.

Everything between machines is JAX's own runtime. This module adds what a person needs of it: plain errors within a
stated time, and an exit status that a scheduler can act on. JAX ends a process whose peer is lost by aborting it from
C++, so a run is a child process (`main`), and its parent (`supervise`) says what happened.

Status of a distributed run: that of an undisturbed one, or `LOST`, after which the same command continues.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

LOST = 75
"""Exit status where another process was lost; EX_TEMPFAIL of sysexits.h."""
HEARTBEAT = 20
"""Seconds without a sign of life after which a process counts as lost."""
CONNECT = 300
"""Seconds in which all processes must have come."""
GRACE = HEARTBEAT + 25
"""Seconds that the others are given to be told which process was lost, before a process ends without it."""
WIDEST = 4096
"""Bytes of an error that the first process tells the others."""
_PARENT = "FSL_JAX_SUPERVISED"
_NOISE = ("    @ ", "*** Check failure", "[Gloo] Rank")

_first = True
_joined = False


def is_first() -> bool:
    """Says whether this process writes logs and results; it does unless it is one of several and not the first."""
    return _first


def is_joined() -> bool:
    """Says whether this run has other processes."""
    return _joined


def join(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = CONNECT,
) -> None:
    """Joins the other processes of a run; before anything else of JAX.

    Args:
      coordinator: HOST:PORT where process 0 listens; where it is not given, JAX finds out on SLURM, Open MPI, Cloud TPU
        and Kubernetes.
      num_processes: How many there are.
      process_id: Which one this is, from 0.
      timeout: Seconds in which all must have come.

    Raises:
      ValueError: Some of the three are given and others not, they do not fit, nothing is given and nothing is found
        out, or the coordinator cannot be reached.
    """
    global _first, _joined
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"{' and '.join(missing)} missing: give all of --{', --'.join(given)}, or none of them"
        )
    if coordinator is not None and num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"--process_id is {process_id} of {num_processes} processes; expected 0 to {num_processes - 1}"
            )
        host, port = _address(coordinator)
        if process_id:
            timeout = max(1, round(timeout - _wait_for(host, port, timeout)))
        else:
            _check_free(port)
    import jax

    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"the processes of this run cannot be found out ({error}): give --coordinator HOST:PORT, --num_processes "
            "and --process_id"
        ) from error
    _first, _joined = jax.process_index() == 0, True


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"--coordinator is {coordinator!r}; expected HOST:PORT, such as 10.0.0.1:1234")
    return host.strip("[]"), int(port)


def _check_free(port: int) -> None:
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise ValueError(
            f"port {port} of --coordinator cannot be listened on ({error.strerror}): is another run, or a second "
            "process 0, using it? Choose another port"
        ) from error


def _wait_for(host: str, port: int, timeout: int) -> float:
    """Waits until the first process listens; returns how many seconds it took."""
    start = time.monotonic()
    end, reason = start + timeout, "nothing answers"
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, port), timeout=min(5.0, max(end - time.monotonic(), 0.1))):
                return time.monotonic() - start
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(0.5)
    raise ValueError(
        f"the coordinator {host}:{port} cannot be reached within {timeout} s ({reason}): is process 0 running there, "
        "is the port open between the machines?"
    )


def by_first(work: Callable[[], None]) -> None:
    """Lets the first process do what one alone may do, such as writing; the others wait, and fail as it fails.

    Raises:
      ValueError: As `work` does.
      OSError: As `work` does.
    """
    if not _joined:
        work()
        return
    import numpy as np
    from jax.experimental import multihost_utils

    told, error = b"", None
    if _first:
        try:
            work()
        except (ValueError, OSError) as raised:
            told, error = f"{raised} (in process 0)".encode()[:WIDEST], raised
    message = np.zeros(WIDEST, np.uint8)
    message[: len(told)] = np.frombuffer(told, np.uint8)
    received = bytes(np.asarray(multihost_utils.broadcast_one_to_all(message))).rstrip(b"\0")
    if error is not None:
        raise error
    if received:
        raise ValueError(received.decode(errors="replace"))


def all_agree(flag: bool) -> bool:
    """Says whether a flag, such as that a file is there, is true in every process."""
    if not _joined:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


def stops(count: int) -> bool:
    """Says whether all processes agree to stop now, since one of them got SIGTERM.

    Args:
      count: How often this was asked; all processes ask equally often.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(count)


def leave(status: int) -> None:
    """Ends a process at once where it cannot wait for the others, which would wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def await_verdict() -> None:
    """Waits until JAX has found out which process is lost; it then ends this one, and `supervise` says so."""
    time.sleep(GRACE)


def is_supervised() -> bool:
    """Says whether this process has a parent that explains its end."""
    return _PARENT in os.environ


def watch_parent() -> None:
    """Ends this process when its parent is gone, such as by SIGKILL."""
    handle = int(os.environ[_PARENT])

    def watch() -> None:
        os.read(handle, 1)  # returns when the other end is closed
        os._exit(LOST)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def supervise(command: list[str], *, continues: str) -> int:
    """Runs a command that `join`s others, and says in a line why it ended where JAX aborts it.

    Args:
      command: With its arguments.
      continues: What to say where the same command may be given again.

    Returns:
      Its exit status, or `LOST`.
    """
    reading, writing = os.pipe()
    child = subprocess.Popen(
        command,
        env={**os.environ, _PARENT: str(reading)},
        pass_fds=[reading],
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(reading)
    before = {
        number: signal.signal(number, lambda number, _: child.send_signal(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    verdict = Verdict()
    try:
        assert child.stderr is not None
        _pass_on(child.stderr, verdict)
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
    if status == -signal.SIGABRT and verdict.reason:
        print(f"error: {verdict.reason}; {continues}", file=sys.stderr, flush=True)
        return LOST
    if status < 0:
        print(
            f"error: the run was ended by {signal.Signals(-status).name}; {continues}",
            file=sys.stderr,
            flush=True,
        )
        return 128 - status
    return status


def _pass_on(lines: IO[str], verdict: "Verdict") -> None:
    for line in lines:
        if not verdict.hears(line) and not line.startswith(_NOISE):
            sys.stderr.write(line)
            sys.stderr.flush()


class Verdict:
    """Understands the message with which JAX's runtime aborts a process.

    Attributes:
      reason: Why, in plain words; empty where nothing was heard.
    """

    def __init__(self) -> None:
        """Has heard nothing yet."""
        self.reason = ""
        self._within = False
        self._names = False

    def hears(self, line: str) -> bool:
        """Takes a line of the process; returns whether it is part of such a message, and not to be shown."""
        fatal = line.startswith("F") and "distributed service detected fatal errors" in line
        if fatal or (line.startswith("E") and "coordination_service" in line):
            self._within, self._names = True, False
        if not self._within:
            return False
        if self._names:
            lost = [part for part in line.replace(",", " ").replace("/", " ").split() if part.isdecimal()]
            self._names = False
            if lost:
                several = "processes" if len(lost) > 1 else "process"
                were = "were" if len(lost) > 1 else "was"
                self.reason = f"{several} {', '.join(lost)} {were} lost: no sign of life for {HEARTBEAT} s"
        if "stopped sending heartbeats" in line:
            self._names = True
        elif "leader task" in line or "Failed to send RPC to coordination service" in line:
            self.reason = self.reason or "process 0, which coordinates the run, was lost or cannot be reached"
        elif "RegisterTask" in line:
            self.reason = (
                "not all processes of the run came in time: start those that are missing, with the same flags"
            )
        elif fatal and not self.reason:
            self.reason = f"another process was lost ({line.partition('absl::Status: ')[2].strip()[:200]})"
        return True
