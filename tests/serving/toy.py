"""A small shop: an index of drawn photos, a toy model, an engine of NumPy, and a client that needs no network."""

import asyncio
import io
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw

try:
    import fastapi  # noqa: F401
    import httpx
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    pytest.skip(
        f"the service is not installed: {error}; pip install 'fsl_jax[serve]'", allow_module_level=True
    )

from fsl_jax.data.augment import Preprocess
from fsl_jax.embedder import Embedder
from fsl_jax.search.calibration import Calibration
from fsl_jax.search.engines import Found
from fsl_jax.search.index import Index
from fsl_jax.search.searching import Searcher
from fsl_jax.serving.app import create_app
from fsl_jax.serving.catalogue import Catalogue
from fsl_jax.serving.limits import Limits, Token, decode, thumbnail_of
from fsl_jax.serving.metrics import Meter

WORD = "a-word-for-tests-only"
BEARER = {"Authorization": f"Bearer {WORD}"}
PREPROCESS = Preprocess(size=32, channels=3, fit="pad", mean=(0.5,), std=(0.25,))
LABELS = [
    f"{colour} {kind}" for kind in ("bag", "boot", "cap") for colour in ("blue", "green", "ochre", "red")
]
COLOURS = {"blue": "#2d5d9f", "green": "#3c7a4d", "ochre": "#b8862b", "red": "#a83232"}


def drawn(label, photo=0, size=320):
    """Draws an article; photos of one label differ a little in place and light."""
    colour, kind = label.split()
    image = Image.new("RGB", (size, size), (238 - 6 * photo,) * 3)
    draw, move = ImageDraw.Draw(image), 0.03 * photo * size
    places = [(float(x), float(y)) for x, y in OUTLINES[kind]]
    draw.polygon([(x * size + move, y * size) for x, y in places], fill=COLOURS[colour])
    if kind == "bag":
        draw.arc(
            [0.33 * size + move, 0.12 * size, 0.67 * size + move, 0.6 * size],
            180,
            360,
            COLOURS[colour],
            size // 24,
        )
    return image


OUTLINES = {
    "bag": [(0.15, 0.38), (0.85, 0.38), (0.92, 0.88), (0.08, 0.88)],
    "boot": [(0.3, 0.1), (0.58, 0.1), (0.6, 0.55), (0.92, 0.7), (0.92, 0.88), (0.28, 0.88)],
    "cap": [
        (0.1, 0.62),
        (0.16, 0.4),
        (0.36, 0.24),
        (0.62, 0.26),
        (0.74, 0.5),
        (0.97, 0.6),
        (0.96, 0.7),
        (0.1, 0.68),
    ],
}


def as_bytes(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo_of(label, photo=0):
    return as_bytes(drawn(label, photo))


def toy_embedder():
    """Embeds a photo as its colours on a grid of 8 x 8."""

    @jax.jit
    def embed(images):
        floats = PREPROCESS(images)
        cells = floats.reshape(len(floats), 8, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(len(floats), -1)
        return jnp.concatenate([cells, jnp.ones((len(cells), 1))], axis=1)

    return Embedder(embed, PREPROCESS, "0" * 64)


class Loop:
    """Searches with NumPy; the engine of the tests, which compiles nothing."""

    exact = True

    def __init__(self, embeddings):
        self._embeddings = np.asarray(embeddings)

    def search(self, queries, k):
        scores = queries @ self._embeddings.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return Found(np.take_along_axis(scores, rows, 1).astype(np.float32), rows.astype(np.int64))


def make_index(folder, *, photos=2, calibrated=False):
    embedder = toy_embedder()
    index = Index.create(folder, embedder=embedder, model={"published": "toy", "fit": "pad"})
    names = [(label, photo) for label in LABELS for photo in range(photos)]
    files = [photo_of(label, photo) for label, photo in names]
    images = np.stack([decode(file, PREPROCESS) for file in files])
    index = index.add(
        np.asarray(embedder.embed(images)),
        ids=[f"{label}/{photo}.png" for label, photo in names],
        labels=[label for label, _ in names],
        paths=[""] * len(names),
        thumbnails=[thumbnail_of(file) for file in files],
        digest=embedder.digest,
    )
    if calibrated:
        index = index.calibrated(
            Calibration(
                slope=60.0, intercept=-58.2, threshold=0.97, false_accept_rate=0.01, pairs=12, looked_up=6
            )
        )
    return index


def limits(**changed):
    return Limits(
        **(
            {"max_upload": 300_000, "max_pixels": 1_000_000, "max_concurrent": 16, "timeout": 10, "k": 5}
            | changed
        )
    )


def make_guard(folder, *, word=WORD, embedder=None, **changed):
    embedder, meter, allowed = embedder or toy_embedder(), Meter(), limits(**changed)

    def renew(index):
        return Searcher(index, embedder, Loop(index.embeddings))

    catalogue = Catalogue(renew(Index.open(folder)), renew=renew, k=allowed.k, meter=meter)
    return create_app(catalogue, limits=allowed, token=Token(word), meter=meter)


class Client:
    """Calls an ASGI application as if over the network; many threads may use it."""

    def __init__(self, guard):
        self.guard = guard
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def __enter__(self):
        self._thread.start()
        self._lifespan = self.guard.app.router.lifespan_context(self.guard.app)
        self.run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self.guard, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://shop")
        return self

    def __exit__(self, *_):
        self.run(self.http.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def request(self, method, path, **options):
        return self.run(self.http.request(method, path, **options))

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)

    def delete(self, path, **options):
        return self.request("DELETE", path, **options)

    def search(self, photo, **data):
        return self.post("/search", files={"photo": ("photo.png", photo, "image/png")}, data=data)


@contextmanager
def served(folder, **options):
    with Client(make_guard(folder, **options)) as client:
        yield client


@contextmanager
def process(folder, *changed):
    """Runs the service as a process of its own; gives the process, its address, and the lines of its log."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "FSL_JAX_COMPILATION_CACHE": "off"}
    command = [sys.executable, str(Path(__file__).with_name("run_toy.py")), str(folder), *changed]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    try:
        address = next(line for line in started.stderr if "http://" in line).split()[-1]
        reader = threading.Thread(target=lambda: lines.extend(started.stderr))
        reader.start()
        _wait_until_ready(address)
        yield started, address, lines
    finally:
        started.kill()
        started.wait()
        reader.join()
        started.stderr.close()


def _wait_until_ready(address):
    for _ in range(300):
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=30).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the service did not become ready within 30 s")
