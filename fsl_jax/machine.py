"""What is settled before JAX first looks at the machine: where programs are kept, and how many devices a CPU makes."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from fsl_jax.data.cache import cache_folder

SETTING = "FSL_JAX_COMPILATION_CACHE"
"""Environment variable: a folder, or "off"."""
MOST_CPU_DEVICES = 8
"""Each holds the resident set."""
_SHORTEST = 0.5
"""Seconds of compilation under which a program is not kept."""


def use_compilation_cache(where: str = "") -> Path | None:
    """Keeps compiled programs for the next run of the same config.

    What was set for JAX itself (JAX_COMPILATION_CACHE_DIR) is left as it is.

    Args:
      where: A folder, "off", or "" for the setting FSL_JAX_COMPILATION_CACHE, and without it the user's cache folder.

    Returns:
      The folder; None where nothing is kept.
    """
    where = where or os.environ.get(SETTING, "")
    if where == "off" or jax.config.values["jax_compilation_cache_dir"] is not None:
        return None
    folder = Path(where) if where else cache_folder() / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (
        OSError
    ):  # A home that cannot be written to: programs are compiled anew each time, as they would be without.
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)
    return folder


def _processor() -> str:
    """Names this kind of processor: a home folder may be shared by machines that cannot run each other's programs."""
    described = platform.machine() + platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        wanted = ("flags", "Features", "model name")
        lines = information.read_text().splitlines()
        described += "".join(sorted({line for line in lines if line.startswith(wanted)}))
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def use_cpu_devices(count: int) -> None:
    """Makes several devices of a CPU, over which tasks are spread; where JAX has started, it stays as it is.

    A meta-step of small networks is bound by the passes over memory between its products, which one device makes with
    one core: two devices on two cores take two thirds of the time.

    Args:
      count: Devices; 0 takes as many as there are cores for this process, at most 8. What was set for JAX itself
        (jax_num_cpu_devices, or XLA's own flag) is left as it is.
    """
    given = jax.config.values["jax_num_cpu_devices"] != -1 or "host_platform_device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if given:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", count or min(cores, MOST_CPU_DEVICES))
    except RuntimeError:  # JAX has started.
        return
