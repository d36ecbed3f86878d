"""Eight CPU devices, no silent broadcasting between ranks, and the real data where it is at hand."""

import os
import signal
from pathlib import Path

# Tests compile many small programs and run each for a moment: half the time is saved by not polishing them.
# `--xla_cpu_use_fusion_emitters=false` would halve it again, but an exported network then gave wrong values (JAX
# 0.10.2).
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# Programs of tests would only fill the user's cache.
os.environ.setdefault("FSL_JAX_COMPILATION_CACHE", "off")

# A shell has what runs in its background ignore Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("FSL_JAX_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="module", autouse=True)
def _programs_of_other_modules_are_dropped():
    """Each compiled program holds several memory maps; a process may have 65,530, and XLA crashes at that."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def real_data():
    """Returns the folder of a real data set, or skips the test where it is not on this machine."""

    def folder(name: str) -> Path:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"real data {name!r} is not at {REAL_DATA}; set FSL_JAX_DATA to its parent folder")
        return REAL_DATA / name

    return folder
