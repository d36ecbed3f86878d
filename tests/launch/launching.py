"""What the tests of launch/ share: stand-ins for the programs that its scripts start."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"

SMALL = (
    *("--config", "configs/maml.py:smoke", "--config.model.options.filters=8", "--config.eval.every=0"),
    "--config.model.options.formulation=lax",
)
"""Flags of a real training, of which two processes compile little."""

PYTHON = '''#!{python} -S
"""Stands for python: prints its flags, and does what DOES tells its process to."""
import json, os, signal, sys, time

if sys.argv[1] == "-c":
    exec(sys.argv[2])
    sys.exit()
flags = sys.argv[1:]
process = flags[flags.index("--process_id") + 1] if "--process_id" in flags else os.environ.get("SLURM_PROCID", "0")
does = json.loads(os.environ.get("DOES", "{{}}")).get(process, {{}})
if os.environ.get("SLURM_RESTART_COUNT"):
    does = {{}}
received = []


def receive(number, _):
    received.append(number)
    print("received", signal.Signals(number).name, flush=True)


if not does.get("deaf"):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, receive)
names = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "SLURM_RESTART_COUNT")
environment = {{name: os.environ[name] for name in names if name in os.environ}}
print(json.dumps({{"pid": os.getpid(), "flags": flags, "environment": environment}}), flush=True)
end = time.monotonic() + does.get("seconds", 0)
while time.monotonic() < end and not received:
    time.sleep(0.02)
if received:
    time.sleep(0.6)
    print("saved", flush=True)
sys.exit(130 if signal.SIGINT in received else does.get("status", 0))
'''

RECORDER = """#!/usr/bin/env bash
printf '%q ' "$(basename "$0")" "$@" >>"$RECORD"
echo >>"$RECORD"
"""


def stand_ins(folder: Path, **programs: str) -> dict[str, str]:
    """Puts programs into a folder, and returns an environment that finds them first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text.format(python=sys.executable) if text is PYTHON else text)
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "RECORD": str(folder / "record")}


def recorded(environment: dict[str, str]) -> list[list[str]]:
    """Returns the command lines that `RECORDER` was started with."""
    record = Path(environment["RECORD"])
    return [shlex.split(line) for line in record.read_text().splitlines()] if record.exists() else []


def started(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of launch/ to its end, with these variables set or, where empty, unset."""
    variables = {**os.environ, **environment}
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env={name: value for name, value in variables.items() if value},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


def dry(script: str, *arguments: str, **environment: str) -> list[list[str]]:
    """Returns the command lines that a script prints in a dry run, as a shell reads them."""
    result = started(script, "--dry-run", *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]
