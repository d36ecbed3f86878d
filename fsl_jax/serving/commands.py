"""The command serve: an index as a web page and a JSON interface."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fsl_jax.serving.limits import Guard, Limits, Token

MB = 1_000_000


def serve(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that fsl-jax index build made.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    engine: Annotated[str, typer.Option("--engine", help="What searches: exact, faiss or milvus.")] = "exact",
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="File with the word that allows changes; or FSL_JAX_TOKEN."),
    ] = None,
    max_upload_mb: Annotated[float, typer.Option("--max-upload-mb", help="Of one photo.")] = 10,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", help="Width times height of a photo.")
    ] = 40_000_000,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", help="Requests in work; further ones are told to come again.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds of a request, its upload included.")
    ] = 20,
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="Articles of an answer by default.")] = 10,
) -> None:
    """Serves an index: a page for photos, and JSON. Changes are possible with a token only.

    Stopped by SIGTERM or Ctrl-C it finishes what runs. Exit status: 0, 1 it could not be started.
    """
    import os

    from fsl_jax.cli import plain_errors

    with plain_errors():
        _check_installed()
        from fsl_jax.serving.limits import Limits, read_token

        limits = Limits(
            max_upload=int(max_upload_mb * MB),
            max_pixels=max_pixels,
            max_concurrent=max_concurrent,
            timeout=timeout,
            k=k,
        )
        token = read_token(token_file, os.environ)
        run(open_app(index, engine=engine, limits=limits, token=token), host=host, port=port)


def _check_installed() -> None:
    import importlib.util

    needed = {
        "fastapi": "fastapi",
        "uvicorn": "uvicorn",
        "python_multipart": "python-multipart",
        "prometheus_client": "prometheus-client",
    }
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ValueError(
            f"serve needs {', '.join(missing)}, not installed here: pip install 'fsl_jax[serve]'"
        )


def open_app(index: Path, *, engine: str, limits: "Limits", token: "Token") -> "Guard":
    """Opens an index with its model, and makes the service of it.

    Args:
      index: Its folder.
      engine: What searches.
      limits: What a request may hold.
      token: What allows changes.

    Raises:
      ValueError: There is no index, it is damaged, or its model or engine cannot be loaded.
    """
    from fsl_jax.search.index import Index
    from fsl_jax.search.models import load_model
    from fsl_jax.search.searching import Searcher, make_searcher
    from fsl_jax.serving.app import create_app
    from fsl_jax.serving.catalogue import Catalogue
    from fsl_jax.serving.metrics import Meter

    opened, meter = Index.open(index), Meter()
    embedder = load_model(opened.model)

    def renew(changed: Index) -> Searcher:
        return make_searcher(changed, embedder, engine)

    catalogue = Catalogue(renew(opened), renew=renew, k=limits.k, meter=meter)
    return create_app(catalogue, limits=limits, token=token, meter=meter)


def run(guard: "Guard", *, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; then what runs is finished, and what comes is refused with 503.

    Raises:
      OSError: The address is in use, or not of this machine.
    """
    import socket
    import sys

    import uvicorn

    from fsl_jax.serving.metrics import log_lines

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            if guard.draining:
                super().handle_exit(sig, frame)  # asked twice: at once
            guard.draining = True

        async def on_tick(self, counter: int) -> bool:
            # The sockets stay open for as long as something runs, so that who comes meanwhile is told why not.
            return await super().on_tick(counter) or (guard.draining and guard.running == 0)

    def write(line: str) -> None:
        sys.stderr.write(line)
        sys.stderr.flush()

    try:
        sockets = [socket.create_server((host, port), backlog=256, family=_family(host))]
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    log_lines(write)
    host, port = sockets[0].getsockname()[:2]
    typer.echo(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
    config = uvicorn.Config(
        guard,
        http="h11",  # there with every uvicorn; another parser would be taken where it happens to be installed
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    Server(config).run(sockets=sockets)


def _family(host: str) -> Any:
    import socket

    return socket.AF_INET6 if ":" in host else socket.AF_INET
