"""launch/local.sh with a stand-in for python, and once for real."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import LAUNCH, PYTHON, REPOSITORY, SMALL, dry, stand_ins, started


@pytest.fixture
def environment(tmp_path):
    return stand_ins(tmp_path / "a folder", python=PYTHON)


def running(environment, *arguments, **variables):
    return subprocess.Popen(
        [LAUNCH / "local.sh", *arguments],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def spoken(output, process):
    """Returns what a process printed: its first line is what it was started with."""
    first, *rest = [line[4:] for line in output.splitlines() if line.startswith(f"[{process}] ")]
    return json.loads(first), rest


def wait_for_lines(launched, count):
    return "".join(launched.stdout.readline() for _ in range(count))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_processes_share_a_coordinator_and_the_flags_and_differ_in_their_number():
    first, second = dry("local.sh", "2", "--config", "a b", "--workdir=it's", DEVICES="3")
    coordinator = first[first.index("--coordinator") + 1]
    assert coordinator.startswith("127.0.0.1:")
    for process, command in (("0", first), ("1", second)):
        assert command == [
            *("env", "JAX_PLATFORMS=cpu", "python", "-m", "fsl_jax.main", "--cpu_devices", "3"),
            *("--distributed", "--coordinator", coordinator, "--num_processes", "2", "--process_id", process),
            *("--config", "a b", "--workdir=it's"),
        ]


def test_a_dry_run_prints_what_a_run_starts(environment):
    launched = running(environment, "2", "--config", "a b")
    output, _ = launched.communicate(timeout=30)
    dried = dry("local.sh", "2", "--config", "a b")
    for process, command in enumerate(dried):
        begun, _ = spoken(output, process)
        flags = command[command.index("python") + 1 :]
        port = flags.index("--coordinator") + 1
        assert begun["flags"][:port] == flags[:port]
        assert begun["flags"][port + 1 :] == flags[port + 1 :]


def test_a_process_has_one_cpu_device_and_no_gpu_by_default(environment):
    output, _ = running(environment, "1", "--x").communicate(timeout=30)
    begun, _ = spoken(output, 0)
    assert begun["environment"]["JAX_PLATFORMS"] == "cpu"
    assert begun["flags"][2:4] == ["--cpu_devices", "1"]


@pytest.mark.parametrize(("visible", "expected"), [("", ["0", "1"]), ("3,5,7", ["3", "5"])])
def test_with_gpus_each_process_sees_one_of_those_that_the_user_sees(visible, expected):
    commands = dry("local.sh", "2", "--x", GPUS="1", CUDA_VISIBLE_DEVICES=visible)
    assert [command[1:3] for command in commands] == [
        ["JAX_PLATFORMS=cuda,cpu", f"CUDA_VISIBLE_DEVICES={gpu}"] for gpu in expected
    ]
    assert "--cpu_devices" not in commands[0]


def test_fewer_gpus_than_processes_are_refused():
    result = started("local.sh", "3", "--x", GPUS="1", CUDA_VISIBLE_DEVICES="0,1")
    assert result.returncode == 2
    assert "3 processes need 3 GPUs; CUDA_VISIBLE_DEVICES is '0,1'" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("0",), ("-1",), ("--config", "x"), ("--dry-run",)])
def test_without_a_number_of_processes_it_says_how_it_is_used(arguments):
    result = started("local.sh", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: launch/local.sh")


def test_the_status_is_0_where_all_processes_end_with_0(environment):
    launched = running(environment, "3", "--x")
    output, errors = launched.communicate(timeout=30)
    assert (launched.returncode, errors) == (0, "")
    assert sorted(line[:3] for line in output.splitlines()) == ["[0]", "[1]", "[2]"]


def test_the_status_is_that_of_the_first_failure_and_the_others_may_end_by_themselves(environment):
    does = {"0": {"seconds": 1.5, "status": 75}, "1": {"seconds": 0.3, "status": 3}}
    launched = running(environment, "2", "--x", DOES=json.dumps(does))
    _, errors = launched.communicate(timeout=30)
    assert launched.returncode == 3
    assert errors == f"{LAUNCH}/local.sh: process 1 ended with status 3\n"


def test_a_process_that_does_not_end_after_the_failure_of_another_is_killed(environment):
    does = {"0": {"seconds": 60, "deaf": True}, "1": {"status": 9}}
    start = time.monotonic()
    launched = running(environment, "2", "--x", DOES=json.dumps(does), GRACE="1")
    output, _ = launched.communicate(timeout=30)
    assert launched.returncode == 9
    assert time.monotonic() - start < 10
    assert not is_alive(spoken(output, 0)[0]["pid"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_reaches_each_process_once_and_all_are_waited_for(environment, number, status):
    does = {process: {"seconds": 60} for process in "01"}
    launched = running(environment, "2", "--x", DOES=json.dumps(does))
    output = wait_for_lines(launched, 2)
    launched.send_signal(number)
    rest, _ = launched.communicate(timeout=30)
    assert launched.returncode == status
    for process in range(2):
        assert spoken(output + rest, process)[1] == [f"received {number.name}", "saved"]


def test_ctrl_c_at_a_terminal_reaches_each_process_once(environment):
    does = json.dumps({process: {"seconds": 60} for process in "01"})
    terminal, end = pty.openpty()
    launched = subprocess.Popen(
        ["setsid", "--ctty", LAUNCH / "local.sh", "2", "--x"],
        env={**environment, "DOES": does},
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    output = b""
    while output.count(b'"pid"') < 2:
        output += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # a terminal that nobody has open any more
        while piece := os.read(terminal, 4096):
            output += piece
    os.close(terminal)
    assert launched.wait(30) == 130
    assert output.count(b"received SIGINT") == 2
    assert output.count(b"saved") == 2


@pytest.mark.slow
def test_two_real_processes_train_together(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    workdir = tmp_path / "a run"
    result = subprocess.run(
        [LAUNCH / "local.sh", "2", *SMALL, "--workdir", workdir],
        env={**os.environ, "PATH": path},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (workdir / "result.json").is_file()
