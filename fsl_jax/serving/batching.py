"""The one thread that owns the model, and how requests that come at once share a call of it.

They share a block of up to eight photos where that is faster: on a GPU it is, and on a CPU eight blocks of one may be;
the start measures it (see `catalogue`).
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from fsl_jax.serving.metrics import Meter

Item = TypeVar("Item")
Result = TypeVar("Result")


class Full(Exception):
    """So much waits already that nothing more is taken."""


class Batcher(Generic[Item, Result]):
    """Hands what comes from many requests to one thread, as much at once as is there.

    Nothing waits for company: while a batch runs, the next one gathers.

    Attributes:
      largest: Items of one call at most.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], *, largest: int, waiting: int, meter: Meter
    ) -> None:
        """Prepares the thread; `start` starts it.

        Args:
          run: From items to as many results; called in the thread only.
          largest: Items of one call.
          waiting: Items that may wait; for further ones `__call__` raises `Full`.
          meter: Gets the number of those that wait, and sizes and times of batches.
        """
        self.largest = largest
        self._run, self._meter = run, meter
        self._queue: queue.Queue[tuple[Item, Future[Result]] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._meter.waiting.set_function(self._queue.qsize)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, once it has done what waits."""
        self._queue.put(None)
        self._thread.join()

    async def __call__(self, item: Item) -> Result:
        """Waits for the result of an item; where the caller is cancelled before its turn, it is left out.

        Raises:
          Full: Too much waits.
        """
        future: Future[Result] = Future()
        try:
            self._queue.put_nowait((item, future))
        except queue.Full:
            raise Full from None
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        running = True
        while running:
            taken = [self._queue.get()]
            while len(taken) < self.largest and not self._queue.empty():
                taken.append(self._queue.get())
            running = None not in taken
            live = [each for each in taken if each is not None and each[1].set_running_or_notify_cancel()]
            if live:
                self._answer([item for item, _ in live], [future for _, future in live])

    def _answer(self, items: list[Item], futures: list["Future[Result]"]) -> None:
        start = time.perf_counter()
        try:
            results = self._run(items)
        except Exception as error:  # whatever it is, it belongs to these requests, and the thread goes on
            for future in futures:
                future.set_exception(error)
            return
        finally:
            self._meter.batch.observe(len(items))
            self._meter.model.observe(time.perf_counter() - start)
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)
