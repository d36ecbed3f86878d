"""What every plan offers: from a step's number to rows, and from rows and photos to what a method is given."""

from typing import Any, Protocol

from jaxtyping import Array, Int, Num

from fsl_jax.data.table import Table
from fsl_jax.types import Batch, Episode, Key


class Plan(Protocol):
    """A sampler of one table; pure, so that the same code runs in the step and on the host.

    A plan whose draws depend on embeddings also has `refresh_every`, the steps of a window, and `first_window`; see
    `sampling.refreshed`.
    """

    def columns(self, table: Table) -> Any:
        """Returns the arrays that `rows` and `assemble` need of the table."""

    def rows(
        self, columns: Any, key: Key, step: Int[Array, ""] | int, window: Any = ()
    ) -> Int[Array, "first *rows"]:
        """Returns the rows of one step; their first axis is spread over the devices."""

    def assemble(
        self, images: Num[Array, "first *rows h w c"], columns: Any, rows: Int[Array, "first *rows"]
    ) -> Batch | Episode:
        """Joins the photos of the rows with what is known of them."""
