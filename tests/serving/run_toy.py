"""Serves the toy shop as a process of its own: run_toy.py INDEX [FIELD=NUMBER ...]; prints its address on stderr."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from toy import make_guard

from fsl_jax.serving.commands import run

changed = {name: int(value) for name, value in (pair.split("=") for pair in sys.argv[2:])}
run(make_guard(Path(sys.argv[1]), **changed), host="127.0.0.1", port=0)
