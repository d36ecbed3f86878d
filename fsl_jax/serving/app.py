"""The web service: a page and a JSON interface over one index.

    guard = create_app(catalogue, limits=limits, token=token)   # an ASGI application

A photo passes the guard (size, time, number of requests), the checks of its header, a thread that decodes it, and the
model's thread. Everything that is refused is told as {"error": plain text}.
"""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from importlib import metadata, resources
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from fsl_jax.serving.catalogue import MOST, Catalogue, Shelf
from fsl_jax.serving.described import described
from fsl_jax.serving.limits import (
    ID,
    Guard,
    Limits,
    Refused,
    Token,
    as_json,
    check_label,
    error_body,
    failed,
)
from fsl_jax.serving.metrics import Meter
from fsl_jax.serving.schema import (
    AddedPhotos,
    AddForm,
    Articles,
    Error,
    Found,
    Guessed,
    Health,
    Hits,
    Listed,
    Ranked,
    RemovedPhotos,
    SearchForm,
)
from fsl_jax.serving.service import Service

if TYPE_CHECKING:
    from fsl_jax.search.searching import Hit

LISTED = 500
"""Articles of one page of the list."""
KEEP = "private, max-age=86400, immutable"
"""A thumbnail's address names the state of the catalogue, and so its photo never changes."""
ROWS = 2**31


class Json(JSONResponse):
    """JSON in ASCII, which any label survives."""

    def render(self, content: Any) -> bytes:
        """Writes plain values."""
        return as_json(content)


def create_app(catalogue: Catalogue, *, limits: Limits, token: Token, meter: Meter) -> Guard:
    """Makes the service.

    Args:
      catalogue: What is served.
      limits: What a request may hold.
      token: What allows changes.
      meter: Figures; the catalogue's too.

    Returns:
      An ASGI application; its lifespan compiles everything and starts the threads.
    """
    service = Service(catalogue, limits, token, meter)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="fsl-jax",
        summary="Finds the articles of an index that are nearest to a photo.",
        version=metadata.version("fsl_jax"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    for router in (pages, reading, writing):
        app.include_router(router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return Guard(app, limits=limits, meter=meter)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    plain = {404: "there is nothing at this address", 405: "this address does not take this method"}
    told = isinstance(error, Refused) or error.status_code not in plain
    message = str(error.detail) if told else plain[error.status_code]
    body = error_body(message)
    return Response(body, error.status_code, headers=error.headers, media_type="application/json")


async def _failed(request: Request, error: Exception) -> Response:
    refusal = failed(request.scope[ID])  # the guard logs the error itself, which is raised once more
    return Response(error_body(str(refusal.detail)), refusal.status_code, media_type="application/json")


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    messages = [_plain(each["loc"], each["type"], each["msg"]) for each in error.errors()]
    return Response(error_body("; ".join(messages[:5])), 422, media_type="application/json")


def _plain(place: Sequence[Any], kind: str, message: str) -> str:
    """Says what is wrong with a field, and nothing of what was sent in it."""
    name = ".".join(str(part) for part in place[1:])[:80] or "the request"
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        return f"{name} is not known here"
    if "UploadFile" in message:
        return f"{name}: expected a file"
    return f"{name}: {message[:1].lower()}{message[1:]}"


def _service(request: Request) -> Service:
    return request.app.state.service


Shared = Annotated[Service, Depends(_service)]
Bearer = Annotated[
    Any, Depends(HTTPBearer(auto_error=False, description="The token the service was started with."))
]
INVALID: dict[int | str, dict[str, Any]] = {
    422: {"model": Error, "description": "Something is missing or wrong."}
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": description}
    for status, description in {
        408: "The upload takes too long.",
        413: "Too many bytes or pixels.",
        415: "No photo, or an unknown format.",
        422: "Something is missing, wrong or broken.",
        503: "Too busy or stopping; see Retry-After.",
    }.items()
}
CHANGES: dict[int | str, dict[str, Any]] = {
    401: {"model": Error, "description": "The token is missing or wrong."},
    403: {"model": Error, "description": "The service is read-only: it has no token."},
}


class Guarded(APIRoute):
    """A route that changes the index: the token is looked at before the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler, with the check before it."""
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            _service(request).token.check(request.headers.get("authorization"))
            return await handler(request)

        return checked


pages = APIRouter(include_in_schema=False)
reading = APIRouter(tags=["reading"], default_response_class=Json, responses=INVALID)
writing = APIRouter(
    tags=["writing"], default_response_class=Json, route_class=Guarded, responses=CHANGES | INVALID
)


@reading.post("/search", responses=REFUSALS)
async def search(
    request: Request, service: Shared, form: Annotated[SearchForm, Form(media_type="multipart/form-data")]
) -> Hits:
    """Finds the nearest articles of a photo, one entry a label."""
    _once(await request.form())
    answer = await service.answer(form.photo, "search", form.k or service.limits.k)
    calibration = answer.shelf.index.calibration
    threshold = None if calibration is None else calibration.threshold
    return Hits(hits=[_found(hit, answer.shelf, threshold) for hit in answer.hits], threshold=threshold)


@reading.post("/classify", responses=REFUSALS)
async def classify(
    request: Request, service: Shared, form: Annotated[SearchForm, Form(media_type="multipart/form-data")]
) -> Guessed:
    """Says which label's mean direction is nearest to a photo; no label where it is too far from all."""
    _once(await request.form())
    guess = (await service.answer(form.photo, "classify")).guess
    if guess is None:
        return Guessed(label=None, probability=None, score=None, ranked=[])
    ranked = [
        Ranked(label=label, probability=share) for label, share in guess.ranked[: form.k or service.limits.k]
    ]
    return Guessed(label=guess.label, probability=guess.probability, score=guess.score, ranked=ranked)


@reading.get("/articles")
async def articles(
    service: Shared,
    offset: Annotated[int, Query(ge=0, le=ROWS, description="Articles that are left out at the start.")] = 0,
    limit: Annotated[int, Query(ge=1, le=LISTED, description="Articles of the answer.")] = 50,
) -> Articles:
    """Lists the articles of the index."""
    shelf = service.catalogue.shelf
    total = len(shelf.labels)
    listed = [_listed(shelf, place) for place in range(offset, min(offset + limit, total))]
    return Articles(articles=listed, total=total, offset=offset)


@reading.get("/thumbnails/{row}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
async def thumbnail(
    service: Shared,
    row: Annotated[int, Path(ge=0, le=ROWS)],
    v: Annotated[
        str | None, Query(max_length=32, description="State of the index, as its addresses have it.")
    ] = None,
) -> Response:
    """Returns the small photo of a row, as the answers' addresses name it."""
    data = service.catalogue.thumbnail(row, v)
    if data is None:
        raise Refused(404, "there is no such photo any more; search again")
    return Response(data, media_type="image/jpeg", headers={"cache-control": KEEP if v else "no-store"})


@reading.get("/health")
async def health(service: Shared) -> Health:
    """Says that the service is ready, and what it allows."""
    shelf, limits = service.catalogue.shelf, service.limits
    return Health(
        status="ready",
        photos=len(shelf.index),
        articles=len(shelf.labels),
        calibrated=shelf.index.calibration is not None,
        writable=service.token.known,
        digest=shelf.index.digest,
        k=limits.k,
        max_k=MOST,
        max_upload=limits.max_upload,
        max_pixels=limits.max_pixels,
        version=metadata.version("fsl_jax"),
    )


@reading.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: Shared) -> Response:
    """Returns the service's figures for Prometheus."""
    return Response(service.meter.text(), media_type="text/plain; version=0.0.4")


@writing.post(
    "/articles",
    status_code=201,
    responses=REFUSALS | {409: {"model": Error, "description": "A photo is there already."}},
)
async def add_article(
    request: Request,
    service: Shared,
    bearer: Bearer,
    form: Annotated[AddForm, Form(media_type="multipart/form-data")],
) -> AddedPhotos:
    """Adds photos of an article, all of them or none; it is found at once."""
    _once(await request.form(), but="photos")
    return await service.add(check_label(form.label), form.photos)


@writing.delete(
    "/articles/{label:path}", responses={404: {"model": Error, "description": "No such article."}}
)
async def remove_article(request: Request, service: Shared, bearer: Bearer, label: str) -> RemovedPhotos:
    """Removes all photos of an article."""
    label = request.scope["path"].removeprefix("/articles/")  # `label` itself lacks a line break at the end
    if not service.catalogue.shelf.photos_of(label):
        raise Refused(404, f"there is no article {label[:80]!r}")
    return await service.remove(labels=[label])


@writing.delete("/articles", responses={404: {"model": Error, "description": "No such photo."}})
async def remove_photos(
    service: Shared,
    bearer: Bearer,
    id: Annotated[list[str], Query(min_length=1, max_length=1000, description="Ids of photos; repeatable.")],
) -> RemovedPhotos:
    """Removes single photos by their ids, all of them or none."""
    return await service.remove(ids=sorted(set(id)))


def _once(form: FormData, *, but: str = "") -> None:
    """Refuses a field that is given twice, of which one would be ignored."""
    names = [name for name, _ in form.multi_items()]
    for name in names:
        if name != but and names.count(name) > 1:
            raise Refused(422, f"{name} is given {names.count(name)} times; expected once")


def _found(hit: "Hit", shelf: Shelf, threshold: float | None) -> Found:
    return Found(
        label=hit.label,
        id=hit.id,
        score=min(1.0, max(-1.0, hit.score)),  # sums of float32 may end beyond
        probability=hit.probability,
        same_article=None if threshold is None else hit.score >= threshold,
        photos=hit.photos,
        thumbnail=_address(shelf, hit.row),
    )


def _listed(shelf: Shelf, place: int) -> Listed:
    article = shelf.article(place)
    ids = [str(id) for id in shelf.index.ids[article.rows]]
    return Listed(
        label=article.label, photos=len(ids), ids=ids, thumbnail=_address(shelf, int(article.rows[0]))
    )


def _address(shelf: Shelf, row: int) -> str:
    return f"/thumbnails/{row}?v={shelf.version}"


@functools.cache
def _page(name: str) -> str:
    return resources.files("fsl_jax.serving").joinpath("page", name).read_text(encoding="utf-8")


@pages.get("/")
async def index_page() -> HTMLResponse:
    """Returns the page."""
    return HTMLResponse(_page("index.html"), headers={"cache-control": "no-cache"})


@pages.get("/page.css")
async def style() -> Response:
    """Returns the page's style."""
    return Response(_page("page.css"), media_type="text/css", headers={"cache-control": "no-cache"})


@pages.get("/page.js")
async def script() -> Response:
    """Returns the page's script."""
    return Response(_page("page.js"), media_type="text/javascript", headers={"cache-control": "no-cache"})


@pages.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Returns the interface's description as a page that loads nothing from elsewhere."""
    return HTMLResponse(described(request.app.openapi()))
