"""What a run carries from step to step."""

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
    """

    step: Int[Array, ""]
    variables: Variables
    optimizer: optax.OptState

    @classmethod
    def create(cls, variables: Variables, optimizer: optax.GradientTransformation) -> "TrainState":
        """Starts at step 0."""
        return cls(jnp.zeros((), jnp.int32), variables, optimizer.init(variables.params))
