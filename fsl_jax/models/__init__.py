"""Flax networks: [b, h, w, c] -> (embedding, intermediates)."""
