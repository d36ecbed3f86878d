"""A trained or published model as a function from photos to embeddings, and embeddings of a whole source in a file."""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from fsl_jax import distributed
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.cache import cache_folder, keep, write_whole
from fsl_jax.data.read import read_rows
from fsl_jax.data.table import Table
from fsl_jax.evaluation.embed import embed_blocks, embed_table
from fsl_jax.mesh import data_mesh
from fsl_jax.progress import Counter

KEPT_BYTES = 4 << 30
"""Features of frozen networks in the user's cache."""
CHUNK = 1024
"""Photos that are read, embedded and kept at once; what an interrupted run loses at most."""


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A model that embeds photos.

    Attributes:
      embed: Jitted; from uint8 photos to embeddings, preprocessing inside.
      preprocess: Size and fit of the photos.
      digest: Of the model's weights and preprocessing; equal digests give equal embeddings.
    """

    embed: Callable[[UInt8[Array, "b h w c"]], Float[Array, "b d"]]
    preprocess: Preprocess
    digest: str


def digest_of(variables: Any, preprocess: Preprocess, *, options: Mapping[str, Any]) -> str:
    """Returns a checksum of all weights by name, of how photos are prepared, and of the network's options.

    Args:
      variables: The weights.
      preprocess: How photos are prepared.
      options: What changes the embeddings besides, such as {"pooling": "max"}; plain JSON values.
    """
    how = {**dataclasses.asdict(preprocess), **({"options": dict(options)} if options else {})}
    checksum = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
    for name, value in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
        array = np.asarray(value)
        checksum.update(f"{name} {array.shape} {array.dtype}".encode())
        checksum.update(np.ascontiguousarray(array).tobytes())
    return checksum.hexdigest()


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Takes from a run's config, as JSON values, what its embeddings depend on besides weights and preprocessing."""
    return {name: config[name] for name in ("model", "algorithm")}


def published(name_or_path: str, *, fit: str) -> Embedder:
    """Loads published weights as an embedder; see `models.pretrained.load`.

    Args:
      name_or_path: Such as "efficientnet_lite0", or a file.
      fit: "pad" keeps all of an article; the networks were judged on "crop".
    """
    from fsl_jax.models import pretrained

    loaded = pretrained.load(name_or_path)
    preprocess = dataclasses.replace(loaded.preprocess, fit=fit)

    @jax.jit
    def embed(images: Array) -> Array:
        return loaded.model.apply(loaded.variables, preprocess(images), statistics="running")[0]

    return Embedder(embed, preprocess, digest_of(loaded.variables, preprocess, options={}))


def embed_to_file(embedder: Embedder, table: Table, file: Path, *, block: int) -> dict[str, Any]:
    """Embeds a table into a .npz; stopped at any moment, the next call goes on where it was.

    The file holds `embedding` [n, d] float32, `path`, `label`, `split` and `role` [n], and `digest`. Photos that
    cannot be read are left out and returned.

    Args:
      embedder: Model.
      table: Photos.
      file: Where to write; beside it lies a folder with the parts while the work goes on.
      block: Photos at once on each device.

    Returns:
      "photos", "seconds" of this call, "photos_a_second" and "unreadable": (photo, reason) of each.

    Raises:
      OSError: The file cannot be written.
      ValueError: No photo can be read.
    """
    parts = file.with_name(f"{file.name}.parts")
    _claim(parts, embedder, table)
    begun, fresh, counter = time.perf_counter(), 0, Counter("embedding", unit="photos")
    starts = [start for start in range(0, len(table), CHUNK) if not _part(parts, start).exists()]
    for start, images, broken in _read_ahead(table, starts, embedder.preprocess):
        embedding = embed_blocks(embedder.embed, images, mesh=data_mesh(jax.device_count()), block=block)
        _keep_part(_part(parts, start), np.asarray(embedding, np.float32), broken)
        fresh += len(images)
        counter(min(start + CHUNK, len(table)), len(table))
    seconds = time.perf_counter() - begun
    unreadable = _join(parts, embedder, table, file)
    shutil.rmtree(parts)
    rate = fresh / seconds if fresh else 0.0
    return {"photos": len(table), "seconds": seconds, "photos_a_second": rate, "unreadable": unreadable}


def _claim(parts: Path, embedder: Embedder, table: Table) -> None:
    """Empties parts that another model or another table left."""
    names = "\n".join(table.name(row) for row in range(len(table)))
    names += "" if table.mask is None else "\n".join(map(str, table.mask))
    identity = hashlib.sha256(f"{embedder.digest}\n{table.root}\n{names}".encode()).hexdigest()
    owner = parts / "identity"
    if parts.exists() and (not owner.exists() or owner.read_text() != identity):
        shutil.rmtree(parts)
    write_whole(owner, lambda stream: stream.write(identity.encode()))


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:09d}.npz"


def _read_ahead(
    table: Table, starts: list[int], preprocess: Preprocess
) -> Iterator[tuple[int, UInt8[np.ndarray, "n s s c"], list[tuple[int, str]]]]:
    """Reads the next chunk while the last one is embedded."""

    def read(start: int) -> tuple[int, np.ndarray, list[tuple[int, str]]]:
        rows = range(start, min(start + CHUNK, len(table)))
        size, channels, fit = preprocess.size, preprocess.channels, preprocess.fit
        images, broken = read_rows(table, rows, size=size, channels=channels, fit=fit)  # type: ignore[arg-type]
        return start, images, [(start + position, reason) for position, reason in broken]

    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = [reader.submit(read, start) for start in starts[:1]]
        for following in [*starts[1:], None]:
            if not ahead:
                return
            chunk = ahead.pop().result()
            if following is not None:
                ahead.append(reader.submit(read, following))
            yield chunk


def _keep_part(file: Path, embedding: Float[np.ndarray, "n d"], broken: list[tuple[int, str]]) -> None:
    rows, reasons = np.array([row for row, _ in broken], int), np.array([reason for _, reason in broken], str)
    write_whole(file, lambda stream: np.savez(stream, embedding=embedding, broken=rows, reasons=reasons))


def _join(parts: Path, embedder: Embedder, table: Table, file: Path) -> list[tuple[str, str]]:
    embeddings, unreadable, kept = [], [], np.ones(len(table), bool)
    for start in range(0, len(table), CHUNK):
        with np.load(_part(parts, start), allow_pickle=False) as part:
            embeddings.append(part["embedding"])
            kept[part["broken"]] = False
            lost = [table.name(int(row)) for row in part["broken"]]
            unreadable += list(zip(lost, part["reasons"].tolist(), strict=True))
    if not kept.any():
        raise ValueError(
            f"{table.source}: none of {len(table)} photos can be read; the first: {unreadable[0]}"
        )
    names = np.array([table.name(row) for row in range(len(table))])
    columns = {
        "embedding": np.concatenate(embeddings)[kept],
        "path": names[kept],
        "label": np.array(table.label.names)[table.label.codes[kept]],
        "split": table.split[kept].astype(str),
        "role": (np.full(len(table), "") if table.role is None else table.role.astype(str))[kept],
        "digest": np.array(embedder.digest),
    }
    write_whole(file, lambda stream: np.savez(stream, **columns))
    return unreadable


def features_of(embedder: Embedder, table: Table, *, mesh: Mesh, block: int) -> Table:
    """Puts a frozen model's embeddings in the place of a table's photos; they are kept in the user's cache.

    Args:
      embedder: The model.
      table: Photos.
      mesh: Over which a block's photos are spread.
      block: Photos at once on each device.

    Returns:
      The table with float32 `images` [n, 1, 1, d].
    """
    file = cache_folder() / "features" / f"{_identity(embedder, table)}.npy"
    if distributed.all_agree(file.exists()):
        features = np.load(file, allow_pickle=False)
        os.utime(file)
    else:
        embeddings = embed_table(
            embedder.embed, table, embedder.preprocess, mesh=mesh, block=block, description="taking features"
        )
        features = np.asarray(embeddings, np.float32)
        keep(file, lambda stream: np.save(stream, features))
        _drop_oldest(file.parent, but=file)
    return dataclasses.replace(table, path=None, mask=None, root=None, images=features[:, None, None, :])


def _identity(embedder: Embedder, table: Table) -> str:
    """Names a model with the photos that it embeds: their pixels, or their files with size and time."""
    checksum = hashlib.blake2b(embedder.digest.encode(), digest_size=16)
    if table.images is not None:
        checksum.update(f"{table.images.shape} {table.images.dtype}".encode())
        checksum.update(np.ascontiguousarray(table.images).data)
    else:
        for row in range(len(table)):
            status = table.file(row).stat()
            mask = "" if table.mask is None else table.mask[row]
            checksum.update(
                f"{table.file(row).absolute()}|{status.st_size}|{status.st_mtime_ns}|{mask}\n".encode()
            )
    return checksum.hexdigest()


def _drop_oldest(folder: Path, *, but: Path) -> None:
    """Keeps the cache of features within `KEPT_BYTES`; what was used longest ago goes first."""
    files = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in files)
    for file in files:
        if total > KEPT_BYTES and file != but:
            total -= file.stat().st_size
            file.unlink(missing_ok=True)
