"""Trains or judges a model: `python -m fsl_jax.main --config configs/maml.py`.

Flags only; the run is put together in `run.py`.
"""

import json
import logging as logging_formats
import sys
import traceback
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from fsl_jax import distributed
from fsl_jax.config import as_json, config_file, flat

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file with a preset, such as configs/maml.py:smoke, or the name of an installed one.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; default runs/<config>-<preset>.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train and judge, or judge a workdir alone."
)
_RESULT_DIR = flags.DEFINE_string(
    "result_dir", None, "Where --mode=evaluate leaves result.json and report.html; default the workdir."
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "",
    "Folder of compiled programs, or off; default $FSL_JAX_COMPILATION_CACHE, or the user's cache folder.",
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices",
    0,
    "Devices that a CPU is taken for; 0 takes one a core (at most 8) where steps are of tasks, else one.",
    lower_bound=0,
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes of this run; all are given the same command and workdir."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; found out on SLURM, Open MPI, Cloud TPU and Kubernetes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes the run has.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
_CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", distributed.CONNECT, "Seconds in which all processes must have come.", lower_bound=1
)


def _config_argument(arguments: list[str]) -> tuple[int, str] | None:
    """Finds the value of --config and where it stands: at this position, behind "=" where there is one."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            if not equals and i + 1 == len(arguments):
                raise ValueError("--config needs a file, such as --config configs/maml.py")
            return (i, value) if equals else (i + 1, arguments[i + 1])
    return None


def _with_config_file(arguments: list[str]) -> tuple[list[str], Path]:
    """Replaces the name of an installed config by its file, and names the default workdir after it."""
    found = _config_argument(arguments)
    if found is None:
        return arguments, Path("runs")
    position, value = found
    name, colon, preset = value.partition(":")
    flag, equals, _ = arguments[position].partition("=")
    replaced = list(arguments)
    is_inline = bool(equals) and flag in ("--config", "-config")
    replaced[position] = f"{'--config=' if is_inline else ''}{config_file(name)}{colon}{preset}"
    return replaced, Path("runs") / "-".join(filter(None, (Path(name).stem, _as_folder(preset))))


def _as_folder(preset: str) -> str:
    """Makes "omniglot,variant=anil" a plain name of a folder."""
    return "-".join(part.rpartition("=")[2] for part in preset.split(","))


def _parse(arguments: list[str]) -> None:
    try:
        left = FLAGS(arguments)
    except (AttributeError, KeyError) as error:  # config_flags: an option that the config does not have
        reason = str(error.args[0]).strip("'\"").replace("\\n", " ").replace("\\'", "'")
        raise ValueError(f"no config option {' '.join(reason.split())}") from error
    except (flags.Error, TypeError) as error:
        raise ValueError(_plain(str(error))) from error
    if len(left) > 1:
        raise ValueError(f"{left[1]!r} is no flag; options are given as --config.part.name=value")


def _plain(message: str) -> str:
    """Takes the reason out of absl's message, which quotes a whole traceback where a config file raises."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    raised = [line.split(": ", 1)[1] for line in lines if line.startswith(("ValueError: ", "TypeError: "))]
    return raised[-1] if raised else lines[0]


def configured(arguments: list[str]) -> tuple[ConfigDict | None, list[str], Path]:
    """Parses a command line, and settles what JAX must be told before it starts.

    Args:
      arguments: Name of the program, then flags.

    Returns:
      The config, or None where none is given; the flags as they were understood; the default workdir.

    Raises:
      ValueError: A flag or a field of the config is wrong; the message says which.
    """
    given, default_workdir = _with_config_file(arguments[1:])
    _parse([arguments[0], *given])
    logging.set_verbosity(logging.WARNING)
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(logging_formats.Formatter("%(levelname)s: %(message)s"))
    from fsl_jax import machine
    from fsl_jax.workdir import kept_config

    config = _CONFIG.value
    judged_alone = config is None and _MODE.value == "evaluate" and _WORKDIR.value is not None
    settled = kept_config(Path(str(_WORKDIR.value))) if judged_alone else config
    machine.use_compilation_cache(_CACHE.value)
    # Tasks share nothing but the parameters; the photos of a flat batch are one batch, which one device does best.
    if _CPU_DEVICES.value or (settled is not None and settled.sampler.name == "episodes"):
        machine.use_cpu_devices(_CPU_DEVICES.value)
    _join()
    return config, given, default_workdir


def _join() -> None:
    """Joins the other processes, where this run has any."""
    of_several = {
        "--coordinator": _COORDINATOR.value, "--num_processes": _NUM_PROCESSES.value, "--process_id": _PROCESS_ID.value
    }  # fmt: skip
    if _DISTRIBUTED.value:
        distributed.join(
            coordinator=_COORDINATOR.value,
            num_processes=_NUM_PROCESSES.value,
            process_id=_PROCESS_ID.value,
            timeout=_CONNECT_TIMEOUT.value,
        )
    elif given := [name for name, value in of_several.items() if value is not None]:
        raise ValueError(f"{given[0]} is of runs in several processes: add --distributed")


def run(arguments: list[str]) -> int:
    """Parses the command line and runs it.

    Returns:
      Exit status.

    Raises:
      ValueError: What was asked for cannot be done; the message says why and what to do.
    """
    config, given, default_workdir = configured(arguments)
    from fsl_jax import run as runs

    command, workdir = ["python", "-m", "fsl_jax.main", *given], Path(_WORKDIR.value or default_workdir)
    if _MODE.value == "evaluate":
        if _WORKDIR.value is None and config is None:
            raise ValueError("--mode=evaluate needs the --workdir of a training run")
        return runs.evaluate(workdir, config, command, kept_in=Path(_RESULT_DIR.value or workdir))
    if _RESULT_DIR.value is not None:
        raise ValueError(
            "--result_dir is of --mode=evaluate: a training run leaves its result in its workdir"
        )
    if config is None:
        raise ValueError("give a --config, such as --config configs/maml.py")
    config.lock()
    return runs.train(config, workdir, command)


def usage(arguments: list[str]) -> str:
    """Tells all flags, and where a config is given all of its fields as they are set.

    Args:
      arguments: As for `run`, without --help.
    """
    given, _ = _with_config_file(arguments[1:])
    _parse([arguments[0], *given])
    names = [name for name, value in globals().items() if isinstance(value, flags.FlagHolder)]
    own = [globals()[name].name for name in names]
    lines = ["python -m fsl_jax.main --config FILE[:PRESET] [--config.part.name=VALUE ...]", ""]
    lines += [f"  --{name:20} {FLAGS[name].help}" for name in own]
    if _CONFIG.value is None:
        return "\n".join([*lines, "", "With --config FILE --help all fields of the config are listed."])
    fields = flat(as_json(_CONFIG.value))
    return "\n".join(
        [*lines, "", "Fields:", *(f"  --config.{name}={json.dumps(fields[name])}" for name in fields)]
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line, and turns what a user can mend into one line."""
    arguments = list(sys.argv if arguments is None else arguments)
    if asked := {"--help", "-h", "-help"} & set(arguments):
        try:
            print(usage([argument for argument in arguments if argument not in asked]))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    if distributed.is_supervised():
        distributed.watch_parent()
    elif "--distributed" in arguments or "--distributed=true" in arguments:
        # JAX aborts a process when another one is lost; then its parent says what happened.
        command = [sys.executable, "-m", "fsl_jax.main", *arguments[1:]]
        return distributed.supervise(command, continues="the same command continues from the last checkpoint")
    try:
        return run(arguments)
    except Exception as error:
        plain = isinstance(error, ValueError | OSError)
        if not distributed.is_joined():
            if not plain:
                raise
            print(f"error: {error}", file=sys.stderr)
            return 2
        if _is_of_a_peer(error):
            distributed.await_verdict()
        print(f"error: {error}" if plain else traceback.format_exc(), file=sys.stderr)
        distributed.leave(2 if plain else 1)
        raise


def _is_of_a_peer(error: Exception) -> bool:
    """Says whether an error is that of a collective whose other side is gone."""
    return any(
        sign in str(error) for sign in ("Gloo", "Connection closed by peer", "NCCL", "DEADLINE_EXCEEDED")
    )


if __name__ == "__main__":
    sys.exit(main())
