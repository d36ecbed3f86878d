"""Primitives of the hot path, with their own derivatives and batching rules."""
