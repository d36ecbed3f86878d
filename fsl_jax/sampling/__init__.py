"""Plans: pure functions from (seed, step) to row numbers."""
