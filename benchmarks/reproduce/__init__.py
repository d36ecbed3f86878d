"""Published figures, each with the one command that makes ours: `python -m benchmarks.reproduce --list`."""
