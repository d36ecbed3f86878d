"""Streams batches from files that are too many for the devices: the host plans rows, threads read photos."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt8

from fsl_jax.data.read import Fit, read_row
from fsl_jax.data.table import Table
from fsl_jax.mesh import own_part, place, place_parts, replicated
from fsl_jax.sampling.plan import Plan
from fsl_jax.types import Batch, Episode, Key

PLANNED = 256
"""Steps whose rows are planned at once; at the end of these the readers start anew."""


@flax.struct.dataclass
class StreamedPhotos:
    """One step's photos.

    Attributes:
      images: In the order of the plan's rows.
      rows: The plan's rows.
    """

    images: UInt8[Array, "*rows h w c"]
    rows: Int[Array, "*rows"]


@dataclasses.dataclass
class StreamingReader:
    """Reads batches from disk, ahead of the step that needs them.

    Rows come from the same plan as a resident set's, computed on the host's CPU device, so that both readers give the
    same batches. Threads read and decode photos; they never touch JAX.

    Attributes:
      table: Photos as files, sorted by label; or as an array that is too large for the devices.
      plan: Which rows a step has.
      key: Of the draws.
      mesh: Over which rows are spread.
      size: Pixels a side.
      channels: Colours of a photo.
      fit: How a photo is made square.
      threads: Reading threads.
      ahead: Steps whose photos are read before they are asked for.
    """

    table: Table
    plan: Plan
    key: Key
    mesh: Mesh
    size: int
    channels: int
    fit: Fit
    threads: int
    ahead: int
    constant: Any = ()
    _window: Any = ()
    _steps: Iterator[tuple[np.ndarray, np.ndarray]] | None = dataclasses.field(default=None, repr=False)
    _next_step: int = -1

    def __post_init__(self) -> None:
        self._cpu = jax.local_devices(backend="cpu")[0]
        with jax.default_device(self._cpu):
            self._columns = self.plan.columns(self.table)
            key = jax.device_put(self.key, self._cpu)
            self._rows = jax.jit(
                jax.vmap(
                    lambda columns, step, window: self.plan.rows(columns, key, step, window),
                    in_axes=(None, 0, None),
                )
            )
        self.constant = place(self._columns, replicated(self.mesh))

    def rows(self, step: int, count: int) -> Int[np.ndarray, "count *rows"]:
        """Returns the rows of the steps from `step` on."""
        with jax.default_device(self._cpu):
            steps = np.arange(step, step + count, dtype=np.int32)
            return np.asarray(self._rows(self._columns, steps, self._window))

    def inputs(self, step: int, count: int) -> StreamedPhotos:
        """Returns the photos of the steps from `step` on, spread over the devices by their first axis.

        Each process reads those of its own devices.
        """
        if step != self._next_step or self._steps is None:
            self.close()
            self._steps = self._read_from(step)
        images, rows = (
            np.stack(parts) for parts in zip(*(next(self._steps) for _ in range(count)), strict=True)
        )
        self._next_step = step + count
        return StreamedPhotos(*place_parts((images, rows), self.mesh, axis=1))

    def fetch(self, constant: Any, given: StreamedPhotos, window: Any = ()) -> Batch | Episode:
        """Joins one step's photos with their labels; runs inside the jitted step."""
        del window
        return self.plan.assemble(given.images, constant, given.rows)

    def begin_window(self, window: Any) -> None:
        """Plans what follows with another window."""
        self._window = jax.device_put(jax.tree.map(np.asarray, window), self._cpu)
        self.close()

    def close(self) -> None:
        """Stops reading ahead."""
        self._steps = None
        self._next_step = -1

    def _read_from(self, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        window = getattr(self.plan, "refresh_every", 0)
        while True:
            # Rows behind the end of a window depend on the next one.
            count = min(PLANNED, window - step % window) if window else PLANNED
            rows = self.rows(step, count)
            yield from self._read(rows[:, own_part(self.mesh, rows.shape[1])])
            step += count

    def _read(self, rows: Int[np.ndarray, "steps *rows"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import grain

        a_step = rows[0].size
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.ahead * a_step)
        photos = (
            grain.MapDataset.source(rows.reshape(-1)).map(self.photo).to_iter_dataset(options).batch(a_step)
        )
        for of_step, images in zip(rows, photos, strict=True):
            yield images.reshape(*of_step.shape, self.size, self.size, self.channels), of_step

    def photo(self, row: int) -> UInt8[np.ndarray, "h w c"]:
        """Reads the photo of a row."""
        return read_row(self.table, int(row), size=self.size, channels=self.channels, fit=self.fit)
