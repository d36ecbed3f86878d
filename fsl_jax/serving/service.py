"""What all routes share: the catalogue, the threads, and the limits."""

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import UploadFile
from jaxtyping import UInt8

from fsl_jax.serving.batching import Batcher, Full
from fsl_jax.serving.catalogue import BLOCKS, Answer, Catalogue, Question
from fsl_jax.serving.limits import (
    PHOTOS_AT_ONCE,
    Limits,
    Refused,
    Token,
    busy,
    check_photo,
    decode,
    thumbnail_of,
)
from fsl_jax.serving.metrics import LOG, Meter
from fsl_jax.serving.schema import AddedPhotos, RemovedPhotos

DECODERS = min(8, os.cpu_count() or 1)
WATCHED = 2.0
"""Seconds between two looks at the folder, which another process may have changed."""

Result = TypeVar("Result")


class Service:
    """What the routes share: the catalogue, the threads, and the limits.

    Attributes:
      catalogue: What is served.
      limits: What a request may hold.
      token: What allows changes.
      meter: Figures.
    """

    def __init__(self, catalogue: Catalogue, limits: Limits, token: Token, meter: Meter) -> None:
        """Prepares the threads; `start` starts the model's."""
        self.catalogue, self.limits, self.token, self.meter = catalogue, limits, token, meter
        self._batcher = Batcher[Question, Answer](
            catalogue.answer,
            largest=BLOCKS[-1],
            waiting=max(limits.max_concurrent, PHOTOS_AT_ONCE),
            meter=meter,
        )
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._heavy = ThreadPoolExecutor(1, "decode-large")
        self._writer = ThreadPoolExecutor(1, "write")

    async def start(self) -> None:
        """Compiles everything, and starts the model's thread."""
        await asyncio.to_thread(self.catalogue.warm_up)
        self._batcher.largest = self.catalogue.largest
        self._batcher.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends all threads, the writer's work included."""
        self._watching.cancel()
        await asyncio.to_thread(self._batcher.stop)
        for pool in (self._decoders, self._heavy, self._writer):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

    async def _watch(self) -> None:
        """Serves what other processes change; what cannot be served is told once, and the old state stays."""
        told = ""
        while True:
            await asyncio.sleep(WATCHED)
            try:
                await _in(self._writer, self.catalogue.refresh)
                told = ""
            except (ValueError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    LOG.warning("the index has changed and cannot be served", extra={"fields": {"why": told}})

    async def ask(self, image: UInt8[np.ndarray, "s s c"], kind: str, k: int = 1) -> Answer:
        """Asks the model; see `Question`.

        Raises:
          Refused: 503, too much waits.
        """
        try:
            return await self._batcher(Question(image, kind, k))  # type: ignore[arg-type]
        except Full:
            raise busy() from None

    async def read(self, photo: UploadFile) -> tuple[bytes, UInt8[np.ndarray, "s s c"]]:
        """Checks and decodes an upload.

        Returns:
          The file, and the square for the model.

        Raises:
          Refused: See `check_photo` and `decode`.
        """
        if (photo.size or 0) > self.limits.max_upload:
            check_photo(b"\0" * (self.limits.max_upload + 1), self.limits)  # says that it is too large
        data = await photo.read()
        header = await _in(self._decoders, check_photo, data, self.limits)
        with self.meter.decoding.time():
            pool = self._heavy if header.heavy else self._decoders
            return data, await _in(pool, decode, data, self.catalogue.shelf.index.preprocess)

    async def answer(self, photo: UploadFile, kind: str, k: int = 1) -> Answer:
        """Reads an upload and asks the model."""
        _, image = await self.read(photo)
        return await self.ask(image, kind, k)

    async def add(self, label: str, photos: Sequence[UploadFile]) -> AddedPhotos:
        """Adds photos of an article, all of them or none.

        Raises:
          Refused: 4xx that names the photo by its place, or 409 where one is there already.
        """
        from fsl_jax.search._adding import checksum

        embeddings, pixels, thumbnails = [], [], []
        for place, photo in enumerate(photos, start=1):
            try:
                data, image = await self.read(photo)
                thumbnails.append(await _in(self._decoders, thumbnail_of, data))
            except Refused as refused:
                raise Refused(
                    refused.status_code, f"photo {place} of {len(photos)}: {refused.detail}"
                ) from refused
            embeddings.append((await self.ask(image, "embed")).embedding)
            pixels.append(checksum(image))
        ids = [f"{label}/{sum}" for sum in pixels]
        add = functools.partial(
            self.catalogue.add, label=label, ids=ids, thumbnails=thumbnails, pixels=pixels
        )
        await self._changed(409, add, np.stack(embeddings))
        return AddedPhotos(label=label, ids=ids, photos=self.catalogue.shelf.photos_of(label))

    async def remove(self, *, ids: Sequence[str] = (), labels: Sequence[str] = ()) -> RemovedPhotos:
        """Removes photos.

        Raises:
          Refused: 404, one is not there.
        """
        count = await self._changed(404, functools.partial(self.catalogue.remove, ids=ids, labels=labels))
        return RemovedPhotos(removed=count)

    async def _changed(self, refusal: int, change: Callable[..., Result], *arguments: Any) -> Result:
        """Makes a change; once begun it is brought to its end, also where the client does not wait."""
        folder = str(self.catalogue.shelf.index.folder)
        try:
            return await asyncio.shield(_in(self._writer, change, *arguments))
        except ValueError as error:
            # The client is told why, and not where on this machine.
            raise Refused(
                refusal, str(error).replace(f" {folder}", "").replace(folder, "the index")
            ) from error
        except OSError as error:
            raise Refused(503, "the index cannot be written just now; try again", retry_after="30") from error


def _in(pool: ThreadPoolExecutor, work: Callable[..., Result], *arguments: Any) -> "asyncio.Future[Result]":
    return asyncio.get_running_loop().run_in_executor(pool, functools.partial(work, *arguments))
