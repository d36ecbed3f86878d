"""Measures the service: requests a second and the 99th percentile at 1, 8 and 64 clients, and its memory.

python -m benchmarks.serving --index INDEX --photos FOLDER     # serves INDEX; photos are JPEG or PNG
python -m benchmarks.serving --index INDEX --photos FOLDER --requests 500 --memory-requests 0

Prints one JSON line a figure. The service runs as a process of its own, the clients in this one; both share the cores.
Exits with 1 where a request fails, or where the memory grows by more than --most-growth-mb after the first tenth.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

CLIENTS = (1, 8, 64)


def tell(**figures) -> None:
    """Prints one JSON line."""
    print(json.dumps(figures), flush=True)


def percentile(values: list[float], share: float) -> float:
    """Returns the smallest value that this share of the values does not exceed."""
    return sorted(values)[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]


@contextlib.contextmanager
def service(index: Path, engine: str) -> Iterator[tuple[int, str]]:
    """Serves an index; gives process id and address, and expects a clean end."""
    code = "import sys, typer; from fsl_jax.serving.commands import serve; typer.run(serve)"
    command = [sys.executable, "-c", code, str(index), "--port", "0", "--engine", engine]
    log = subprocess.Popen([*command, "--max-concurrent", "256"], stderr=subprocess.PIPE, text=True)
    try:
        assert log.stderr is not None
        address = next(line for line in log.stderr if "serving on" in line).split()[-1]
        drain = subprocess.Popen(["cat"], stdin=log.stderr, stdout=subprocess.DEVNULL)
        wait_for(address)
        yield log.pid, address
        log.send_signal(signal.SIGTERM)
        if log.wait(60):
            raise SystemExit(f"the service ended with {log.returncode}; expected 0")
        drain.wait(10)
    finally:
        log.kill()


def wait_for(address: str) -> None:
    """Waits until everything is compiled."""
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=60).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit("the service did not become ready within 2 minutes")


def memory_mb(process: int) -> float:
    """Returns the resident memory of a process."""
    with open(f"/proc/{process}/statm") as status:
        return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def ask(
    address: str, photos: list[bytes], *, clients: int, requests: int
) -> tuple[list[float], int, float]:
    """Sends requests from so many clients at once.

    Returns:
      Seconds of each request, failed requests, and seconds of all.
    """
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    numbers, seconds, failed = iter(range(requests)), [], 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal failed
        for number in numbers:
            start = time.perf_counter()
            answer = await http.post("/search", files={"photo": photos[number % len(photos)]})
            seconds.append(time.perf_counter() - start)
            failed += answer.status_code != 200 or not answer.json()["hits"]

    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as http:
        start = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        return seconds, failed, time.perf_counter() - start


def measure_speed(address: str, photos: list[bytes], requests: int) -> int:
    """Measures all numbers of clients; returns how many requests failed."""
    wrong = 0
    for clients in CLIENTS:
        asyncio.run(ask(address, photos, clients=clients, requests=2 * clients))
        seconds, failed, total = asyncio.run(ask(address, photos, clients=clients, requests=requests))
        wrong += failed
        tell(
            clients=clients,
            requests=requests,
            failed=failed,
            requests_a_second=round(requests / total, 1),
            median_ms=round(1000 * statistics.median(seconds), 1),
            p99_ms=round(1000 * percentile(seconds, 0.99), 1),
        )
    return wrong


def measure_memory(process: int, address: str, photos: list[bytes], requests: int) -> tuple[int, float]:
    """Sends many requests; returns how many failed, and the growth in MB after the first tenth."""
    part, wrong, sizes = requests // 10, 0, []
    for _ in range(10):
        wrong += asyncio.run(ask(address, photos, clients=8, requests=part))[1]
        sizes.append(memory_mb(process))
    growth = sizes[-1] - sizes[0]
    tell(
        requests=10 * part,
        failed=wrong,
        memory_mb=[round(size, 1) for size in sizes],
        growth_mb=round(growth, 1),
    )
    return wrong, growth


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--index", type=Path, required=True)
    flags.add_argument(
        "--photos", type=Path, required=True, help="folder; the first 64 photos are sent in turn"
    )
    flags.add_argument("--engine", default="exact")
    flags.add_argument("--requests", type=int, default=1000, help="for each number of clients")
    flags.add_argument("--memory-requests", type=int, default=10_000, help="0 leaves the memory out")
    flags.add_argument("--most-growth-mb", type=float, default=50)
    given = flags.parse_args()
    files = sorted(
        file for file in given.photos.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    photos = [file.read_bytes() for file in itertools.islice(files, 64)]
    if not photos:
        raise SystemExit(f"{given.photos} has no JPEG or PNG")
    with service(given.index, given.engine) as (process, address):
        health = httpx.get(f"{address}/health").json()
        tell(
            photos=health["photos"],
            articles=health["articles"],
            mean_kb=round(sum(map(len, photos)) / len(photos) / 1000, 1),
            cores=os.cpu_count(),
            machine=platform.machine(),
        )
        wrong, growth = measure_speed(address, photos, given.requests), 0.0
        if given.memory_requests:
            failed, growth = measure_memory(process, address, photos, given.memory_requests)
            wrong += failed
    if wrong or growth > given.most_growth_mb:
        raise SystemExit(f"{wrong} requests failed, the memory grew by {growth:.1f} MB")


if __name__ == "__main__":
    main()
