"""What a training step costs: arithmetic, bytes, memory, compile time and time of the program that a run uses."""

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import stages
from ml_collections import ConfigDict
from rich.table import Table

from fsl_jax import hlo
from fsl_jax.building import make_reader, takes_episodes, units
from fsl_jax.run import planned
from fsl_jax.sampling.keys import named_key
from fsl_jax.sampling.refreshed import RefreshedPlan
from fsl_jax.training.log import doing
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import Reader


class Compiled(NamedTuple):
    """A compiled program of training steps, ready to run.

    Attributes:
      program: Takes a state, `reader.constant` and what the reader gives for some steps.
      reader: Gives the photos.
      state: At step 0; a call takes its memory.
      units: Tasks or photos of a step.
      devices: Over which they are spread.
      trace_seconds: From Python to XLA's input.
      compile_seconds: In XLA.
    """

    program: stages.Compiled
    reader: Reader
    state: TrainState
    units: int
    devices: int
    trace_seconds: float
    compile_seconds: float


def compile_steps(config: ConfigDict) -> Compiled:
    """Compiles the training steps of a config as a run does.

    Raises:
      ValueError: The config is wrong, or its data cannot be read.
    """
    run, table, plan = planned(config, Path(), [])
    table = run.as_trained_on(table)
    reader = make_reader(config.data, run.mesh, table, plan, named_key(config.seed, "train"))
    create, _, optimizer = run.first_state(
        table, plan.first_window() if isinstance(plan, RefreshedPlan) else None
    )
    state = create()
    reader.begin_window(state.window)
    given = reader.inputs(0, config.train.steps_per_call)
    begun = time.perf_counter()
    lowered = run.program(reader, optimizer, state).lower(state, reader.constant, given)
    traced = time.perf_counter()
    with doing(f"compiling {config.train.steps_per_call} training steps"):
        program = lowered.compile()
    done = time.perf_counter()
    return Compiled(program, reader, state, units(plan), run.mesh.size, traced - begun, done - traced)


def profile(config: ConfigDict, *, calls: int, trace: Path | None = None) -> dict[str, Any]:
    """Compiles the training steps of a config, counts what they do, and times them.

    Args:
      config: Of the run; nothing is written but the trace.
      calls: Timed calls, after one that is not; each takes `config.train.steps_per_call` steps. 0 only compiles.
      trace: Folder for a trace of one more call, which TensorBoard's profiler and Perfetto show.

    Returns:
      Figures of one step by name, all of one device but the time: "flops", "bytes", "sent_bytes" (to other devices; see
      `hlo`) and "collectives" with loops as often as they run,
      "temporary_bytes" and "argument_bytes" of the program, "trace_seconds" and "compile_seconds"; where steps were
      timed the median "seconds_a_step", and "flops_a_second" and "bytes_a_second" of all devices.

    Raises:
      ValueError: The config is wrong, or its data cannot be read.
    """
    steps, compiled = config.train.steps_per_call, compile_steps(config)
    memory: Any = compiled.program.memory_analysis()
    cost = hlo.cost(compiled.program.as_text() or "").times(1 / steps)
    figures = {
        "method": config.algorithm.name,
        "device": f"{jax.devices()[0].device_kind} x {compiled.devices}",
        "a_step": f"{compiled.units} {'tasks' if takes_episodes(config) else 'photos'}",
        "steps_a_call": steps,
        "parameters": sum(p.size for p in jax.tree.leaves(compiled.state.variables.params)),
        "flops": cost.flops,
        "bytes": cost.bytes,
        "sent_bytes": cost.sent,
        "collectives": cost.collectives,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "trace_seconds": compiled.trace_seconds,
        "compile_seconds": compiled.compile_seconds,
    }
    if cost.loops_of_unknown_length:
        figures["loops_counted_once"] = cost.loops_of_unknown_length
    seconds = _run(compiled, steps, calls, trace)
    if seconds:
        median = statistics.median(seconds)
        rate = compiled.devices / median
        figures |= {
            "seconds_a_step": median,
            "flops_a_second": cost.flops * rate,
            "bytes_a_second": cost.bytes * rate,
        }
    return figures


def _run(compiled: Compiled, steps: int, calls: int, trace: Path | None) -> list[float]:
    """Times calls, after one that is not timed and before one that is traced."""
    state, seconds = compiled.state, []

    def call(number: int, state: TrainState) -> TrainState:
        given = compiled.reader.inputs(number * steps, steps)
        begun = time.perf_counter()
        state, metrics = compiled.program(state, compiled.reader.constant, given)
        jax.block_until_ready((state, metrics))
        seconds.append((time.perf_counter() - begun) / steps)
        return state

    try:
        for number in range(calls + 1 if calls else 0):
            state = call(number, state)
        timed = seconds[1:]
        if trace is not None:
            with jax.profiler.trace(str(trace)):
                call(calls + 1, state)
    finally:
        compiled.reader.close()
    return timed


def as_table(figures: dict[str, Any]) -> Table:
    """Shows the figures of `profile` with units."""
    table = Table("of one training step", "", title=f"{figures['method']} on {figures['device']}")
    scales = {"flops": 1e9, "bytes": 1e9, "flops_a_second": 1e9, "bytes_a_second": 1e9}
    scales |= {"temporary_bytes": 1e6, "argument_bytes": 1e6, "sent_bytes": 1e6}
    shown = {
        "a_step": "takes",
        "parameters": "parameters",
        "flops": "GFLOP, each device",
        "bytes": "GB read and written by operations, each device",
        "sent_bytes": "MB sent to other devices, each device",
        "collectives": "times that devices wait for each other",
        "temporary_bytes": "MB of temporaries, each device",
        "argument_bytes": "MB of state and data, each device",
        "trace_seconds": "seconds to trace",
        "compile_seconds": "seconds to compile",
        "seconds_a_step": "seconds, median",
        "flops_a_second": "GFLOP/s, all devices",
        "bytes_a_second": "GB/s, all devices",
        "loops_counted_once": "loops of unknown length, counted once",
    }
    for name, words in shown.items():
        if name in figures:
            value = figures[name]
            scaled = value / scales.get(name, 1) if isinstance(value, int | float) else value
            text = scaled if isinstance(scaled, str) else f"{scaled:,.4g}" if scaled % 1 else f"{scaled:,.0f}"
            table.add_row(words, text)
    return table
