"""Few-shot learning and image retrieval in JAX/Flax: from one laptop core to a TPU pod."""

__version__ = "0.1.0"
