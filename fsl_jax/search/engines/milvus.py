"""Searches with Milvus: in a local file (milvus-lite), or in a server or cluster where its address is given.

The collection is made new from the embeddings and dropped again on `close`: the index folder stays the only truth.
"""

import collections
import contextlib
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from fsl_jax.search.engines._found import Found, checked_embeddings, checked_queries, in_order, parts_of

LARGEST_K = 16_384
"""What Milvus allows."""
INSERTED = 2_000
"""Rows a call: a server takes 64 MB at most, and 2,000 rows of 2,048 numbers are 16 MB."""
SEARCHED = 256
"""Queries a call."""

_ENGINES: collections.Counter[str] = collections.Counter()
_LOCK = threading.Lock()
"""How many engines of this process have a local file open."""


class Milvus:
    """Searches a Milvus collection; `make` makes it. Also a context manager, which closes it."""

    def __init__(
        self,
        client: Any,
        collection: str,
        *,
        rows: int,
        dimensions: int,
        exact: bool,
        closing: contextlib.ExitStack,
    ) -> None:
        """Takes a filled collection.

        Args:
          client: A `pymilvus.MilvusClient`.
          collection: Name of the collection, which belongs to this engine.
          rows: How many it has.
          dimensions: Of the embeddings.
          exact: Whether queries are compared with every row.
          closing: What is to be undone at the end.
        """
        self._client, self._collection, self._rows, self._dimensions = client, collection, rows, dimensions
        self.exact, self._closing = exact, closing

    def __enter__(self) -> "Milvus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Found:
        """Finds rows with large inner products; see `engines.Engine`.

        Raises:
          ValueError: As there, or k is above 16,384.
        """
        queries = checked_queries(queries, k, dimensions=self._dimensions)
        limit = min(k, self._rows)
        if limit > LARGEST_K:
            raise ValueError(f"k is {k}; Milvus finds at most {LARGEST_K} rows: use engine='exact' for more")
        scores = np.full((len(queries), limit), -np.inf, np.float32)
        rows = np.full((len(queries), limit), -1, np.int64)
        for start in range(0, len(queries), SEARCHED):
            hits = self._client.search(
                self._collection,
                data=list(queries[start : start + SEARCHED]),
                anns_field="embedding",
                limit=limit,
                output_fields=["row"],
                search_params={"metric_type": "IP"},
            )
            for query, found in enumerate(hits, start):
                rows[query, : len(found)] = [hit["row"] for hit in found]
                scores[query, : len(found)] = [hit["distance"] for hit in found]
        return in_order(scores, rows, k)

    def close(self) -> None:
        """Drops the collection, stops the local server and removes the temporary file; once more does nothing."""
        self._closing.close()


def make(
    embeddings: Float[np.ndarray, "n d"],
    *,
    uri: str | None = None,
    token: str = "",
    collection: str | None = None,
    index: str = "FLAT",
    index_options: Mapping[str, Any] | None = None,
) -> Milvus:
    """Makes a Milvus collection from embeddings.

    Args:
      embeddings: [n, d]. A memory map is read part by part; the collection holds a copy.
      uri: A file that ends in .db, or the address of a server such as "http://localhost:19530"; None is a file in a
        temporary folder.
      token: "user:password" or the API key of the server.
      collection: Name; None is one that nobody else has.
      index: Milvus' index type. "FLAT" compares with every row. A server has others, such as "HNSW" and "IVF_FLAT".
      index_options: Of the index type, such as {"M": 32, "efConstruction": 128}.

    Returns:
      The engine. Close it: on a server the collection stays otherwise.

    Raises:
      ValueError: pymilvus is not installed, embeddings are empty or not finite, the collection is there already, or
        the server cannot be reached.
    """
    rows, dimensions = checked_embeddings(embeddings).shape
    with contextlib.ExitStack() as undone:
        if uri is None:
            uri = f"{undone.enter_context(tempfile.TemporaryDirectory(prefix='fsl_jax_milvus_'))}/index.db"
        local = "://" not in uri
        if local and not uri.endswith(".db"):
            raise ValueError(
                f"uri is {uri!r}; expected a file that ends in .db, or an address, http://HOST:19530"
            )
        library = _library(local)
        if local:
            undone.enter_context(_server_of(uri))
        name = collection or f"fsl_jax_{uuid.uuid4().hex[:12]}"
        try:
            client = library.MilvusClient(uri=uri, token=token)
            undone.callback(client.close)
            if client.has_collection(name):
                raise ValueError(
                    f"the Milvus collection {name!r} is there already; give another name, or drop it"
                )
            _create(client, library, name, dimensions, index, dict(index_options or {}))
            undone.callback(client.drop_collection, name)
            _insert(client, name, embeddings)
        except library.MilvusException as error:
            raise ValueError(f"Milvus at {uri} failed: {error}") from error
        return Milvus(
            client, name, rows=rows, dimensions=dimensions, exact=index == "FLAT", closing=undone.pop_all()
        )


def _insert(client: Any, name: str, embeddings: Float[np.ndarray, "n d"]) -> None:
    for start, part in parts_of(embeddings):
        for offset in range(0, len(part), INSERTED):
            some = enumerate(part[offset : offset + INSERTED], start + offset)
            client.insert(name, [{"row": row, "embedding": vector} for row, vector in some])


def _create(
    client: Any, library: Any, name: str, dimensions: int, index: str, options: dict[str, Any]
) -> None:
    schema = client.create_schema(auto_id=False)
    schema.add_field("row", library.DataType.INT64, is_primary=True)
    schema.add_field("embedding", library.DataType.FLOAT_VECTOR, dim=dimensions)
    indices = client.prepare_index_params()
    indices.add_index(field_name="embedding", index_type=index, metric_type="IP", params=options)
    # Strong: a search sees every row that was inserted before.
    client.create_collection(name, schema=schema, index_params=indices, consistency_level="Strong")


@contextlib.contextmanager
def _server_of(file: str) -> Iterator[None]:
    """Stops the server of a local file when its last engine is closed.

    pymilvus starts one server a file and leaves it running until the process ends.
    """
    from milvus_lite.server_manager import server_manager_instance

    file = os.path.abspath(file)
    with _LOCK:
        _ENGINES[file] += 1
    try:
        yield
    finally:
        with _LOCK:
            _ENGINES[file] -= 1
            if not _ENGINES[file]:
                server_manager_instance.release_server(file)


def _library(local: bool) -> Any:
    try:
        import pymilvus

        if local:
            import milvus_lite  # noqa: F401 - pymilvus looks for it only when a file is opened
    except ModuleNotFoundError as error:
        raise ValueError(
            "the engine 'milvus' needs pymilvus and milvus-lite: pip install 'fsl_jax[milvus]'"
        ) from error
    return pymilvus
