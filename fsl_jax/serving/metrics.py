"""What the service tells about itself: figures for Prometheus, and one JSON line a request."""

import datetime
import json
import logging
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LOG = logging.getLogger("fsl_jax.serving")
METHODS = ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS")
SHOWN = 200
"""Characters of a path that a log line holds."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)


class Exchange:
    """One request and its answer, while they pass.

    Attributes:
      id: Told to the client too, as the header X-Request-ID.
      method: Of the request.
      path: Of the request, without its query.
      status: Of the answer; 499 where the client left before it.
      bytes_in: Body bytes that were read.
      bytes_out: Body bytes that were sent.
      whole: The request's body has been read to its end.
      begun: The answer's head has been sent.
    """

    def __init__(self, method: str, path: str) -> None:
        """Starts the clock."""
        self.id = uuid.uuid4().hex[:16]
        self.method, self.path = method, path
        self.status, self.bytes_in, self.bytes_out = 499, 0, 0
        self.whole = self.begun = False
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Returns how long it has taken so far."""
        return time.perf_counter() - self._start


class Meter:
    """The service's figures, in a registry of its own, so that two services in one process do not mix."""

    def __init__(self) -> None:
        """Registers the figures."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "fsl_jax_requests", "Answered requests.", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "fsl_jax_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.running = Gauge("fsl_jax_requests_running", "Requests in work.", registry=registry)
        self.waiting = Gauge("fsl_jax_photos_waiting", "Photos that wait for the model.", registry=registry)
        self.batch = Histogram(
            "fsl_jax_batch_photos", "Photos the model took at once.", buckets=(1, 2, 4, 8), registry=registry
        )
        self.decoding = Histogram(
            "fsl_jax_decode_seconds", "Time to decode a photo.", buckets=SECONDS, registry=registry
        )
        self.model = Histogram(
            "fsl_jax_model_seconds", "Time of model and search a batch.", buckets=SECONDS, registry=registry
        )
        self.photos = Gauge("fsl_jax_index_photos", "Photos in the index.", registry=registry)
        self.articles = Gauge("fsl_jax_index_articles", "Labels in the index.", registry=registry)

    def text(self) -> bytes:
        """Returns all figures in Prometheus' text format."""
        return generate_latest(self.registry)

    def record(self, exchange: Exchange, route: str | None) -> None:
        """Counts an exchange that has ended, and logs its line.

        Args:
          exchange: The request and its answer.
          route: Template of the path, such as "/thumbnails/{row}"; None where no route fits. Paths themselves
            would make a new figure for each address that somebody tries.
        """
        route, seconds = route or "none", exchange.seconds()
        method = exchange.method if exchange.method in METHODS else "other"
        self._requests.labels(route, method, str(exchange.status)).inc()
        self._seconds.labels(route).observe(seconds)
        line = {
            "id": exchange.id,
            "method": exchange.method[:SHOWN],
            "path": exchange.path[:SHOWN],
            "status": exchange.status,
            "ms": round(1000 * seconds, 1),
            "bytes": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
        }
        LOG.info("request", extra={"fields": line})


class JsonLines(logging.Formatter):
    """Writes a log record as one line of JSON; JSON escapes what a client could break lines with."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {"time": moment.isoformat(timespec="milliseconds"), "level": record.levelname}
        line["message"] = record.getMessage()
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line)


def log_lines(write: Callable[[str], object]) -> None:
    """Sends the process's log through `write`, a JSON line each: requests, uvicorn's news, and warnings of the rest."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            write(self.format(record) + "\n")

    handler, root = Lines(), logging.getLogger()
    handler.setFormatter(JsonLines())
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in (LOG.name, "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    # It warns of each malformed form, which the request's own line tells already.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
