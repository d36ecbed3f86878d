"""What a run carries from step to step."""

from typing import Any

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from fsl_jax.algorithms.base import Variables


@flax.struct.dataclass
class TrainState:
    """Everything that the next step depends on, besides the data: random keys follow from seed and step.

    Attributes:
      step: Steps taken.
      variables: What the method has learned.
      optimizer: State of the optimiser.
      window: What the plan of the current window of steps looks at, such as neighbours; empty for most plans.
    """

    step: Int[Array, ""]
    variables: Variables
    optimizer: optax.OptState
    window: Any = flax.struct.field(default_factory=dict)

    @classmethod
    def create(
        cls, variables: Variables, optimizer: optax.GradientTransformation, window: Any = None
    ) -> "TrainState":
        """Starts at step 0."""
        start = jnp.zeros((), jnp.int32)
        return cls(start, variables, optimizer.init(variables.params), {} if window is None else window)
