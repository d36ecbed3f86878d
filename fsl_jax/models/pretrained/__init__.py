"""Published weights, read without the framework that wrote them: `load` gives (model, variables, preprocess)."""

from fsl_jax.models.pretrained.loading import Loaded, load

__all__ = ["Loaded", "load"]
