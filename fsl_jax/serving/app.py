"""The web service: a page and a JSON interface over one index.

    guard = create_app(catalogue, limits=limits, token=token)   # an ASGI application

A photo passes the guard (size, time, number of requests), the checks of its header, a thread that decodes it, and the
model's thread. Everything that is refused is told as {"error": plain text}.
"""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import metadata, resources
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Form, Path, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from fsl_jax.evaluation._report.html import Markup, join, tag
from fsl_jax.serving.batching import BLOCKS, MOST, Answer, Batcher, Catalogue, Full, Question, Shelf
from fsl_jax.serving.limits import (
    ID,
    PHOTOS_AT_ONCE,
    Guard,
    Limits,
    Refused,
    Token,
    as_json,
    busy,
    check_label,
    check_photo,
    decode,
    error_body,
    failed,
    thumbnail_of,
)
from fsl_jax.serving.metrics import Meter

if TYPE_CHECKING:
    from fsl_jax.search.searching import Hit

DECODERS = min(8, os.cpu_count() or 1)
LISTED = 500
"""Articles of one page of the list."""
KEEP = "private, max-age=86400, immutable"
"""A thumbnail's address names the state of the catalogue, and so its photo never changes."""
ROWS = 2**31

Result = TypeVar("Result")


class Error(BaseModel):
    """Why a request was refused."""

    error: str


class Found(BaseModel):
    """An article that was found: the best of its photos."""

    label: str
    id: str
    score: float = Field(description="Cosine similarity, -1 to 1; larger is nearer.")
    probability: float | None = Field(
        description="That it is the same article; null: the index is not calibrated."
    )
    same_article: bool | None = Field(description="The score reaches the threshold; null: no calibration.")
    photos: int = Field(description="Photos of the label in the index.")
    thumbnail: str = Field(description="Address of its small photo.")


class Hits(BaseModel):
    """The nearest articles, the best first."""

    hits: list[Found]
    threshold: float | None = Field(description="Score from which on it counts as the same article.")


class Ranked(BaseModel):
    """A label and its probability among those of the index."""

    label: str
    probability: float


class Guessed(BaseModel):
    """The label of a photo."""

    label: str | None = Field(description="null: the photo is of none of the labels.")
    probability: float | None
    score: float | None = Field(description="Cosine similarity with the label's mean direction.")
    ranked: list[Ranked]


class Listed(BaseModel):
    """An article of the index."""

    label: str
    photos: int
    ids: list[str]
    thumbnail: str


class Articles(BaseModel):
    """Articles in the order of the alphabet."""

    articles: list[Listed]
    total: int
    offset: int


class AddedPhotos(BaseModel):
    """What was added."""

    label: str
    ids: list[str]
    photos: int = Field(description="Photos of the label in the index now.")


class RemovedPhotos(BaseModel):
    """What was removed."""

    removed: int = Field(description="Photos.")


class Health(BaseModel):
    """The service's state, and what it allows."""

    status: Literal["ready"]
    photos: int
    articles: int
    calibrated: bool
    writable: bool = Field(description="A token is configured.")
    digest: str = Field(description="Of the model's weights and preprocessing.")
    k: int = Field(description="Articles of an answer where no number is given.")
    max_k: int
    max_upload: int = Field(description="Bytes of one photo.")
    max_pixels: int = Field(description="Width times height.")
    version: str


class SearchForm(BaseModel):
    """A photo and how many articles are wanted."""

    model_config = ConfigDict(extra="forbid")
    photo: UploadFile = Field(description="JPEG, PNG, WebP, GIF, BMP or TIFF.")
    k: Annotated[int, Field(ge=1, le=MOST)] | None = Field(None, description="Articles of the answer.")


class AddForm(BaseModel):
    """Photos of one article."""

    model_config = ConfigDict(extra="forbid")
    label: str = Field(description="Name of the article; new, or one that is there.")
    photos: list[UploadFile] = Field(
        min_length=1, max_length=PHOTOS_AT_ONCE, description=f"One file or more, at most {PHOTOS_AT_ONCE}."
    )


class Json(JSONResponse):
    """JSON in ASCII, which any label survives."""

    def render(self, content: Any) -> bytes:
        """Writes plain values."""
        return as_json(content)


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

    async def stop(self) -> None:
        """Ends all threads, the writer's work included."""
        await asyncio.to_thread(self._batcher.stop)
        for pool in (self._decoders, self._heavy, self._writer):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

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
    return HTMLResponse(_described(request.app.openapi()))


def _described(schema: dict[str, Any]) -> str:
    """Writes an OpenAPI description as HTML."""
    parts = [
        _operation(path, method, operation, schema)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "fsl-jax: interface"),
        Markup('<link rel="icon" href="data:,"><link rel="stylesheet" href="/page.css">'),
    )
    top = tag(
        "header",
        tag("h1", "Interface"),
        tag("p", schema["info"]["summary"], class_="soft"),
        tag("p", tag("a", "To the page", href="/"), " · ", tag("a", "OpenAPI as JSON", href="/openapi.json")),
    )
    body = tag("body", top, tag("main", *parts, class_="docs"))
    return join(Markup("<!doctype html>\n"), tag("html", head, body, lang="en"))


def _operation(path: str, method: str, operation: dict[str, Any], schema: dict[str, Any]) -> Markup:
    content = operation.get("requestBody", {}).get("content", {})
    fields = [
        (name, _words(value), value.get("description", "")) for name, value in _properties(content, schema)
    ]
    fields += [
        (each["name"], _words(each["schema"]), each.get("description", ""))
        for each in operation.get("parameters", [])
    ]
    refusals = sorted(
        (status, "", told["description"]) for status, told in operation["responses"].items() if status >= "4"
    )
    good = operation["responses"].get("200") or operation["responses"].get("201") or {}
    given = [
        (name, _words(value), value.get("description", ""))
        for name, value in _properties(good.get("content", {}), schema)
    ]
    return tag(
        "section",
        tag("h2", tag("code", f"{method.upper()} {path}")),
        tag("p", operation.get("description", "")),
        tag("pre", _example(path, method, operation)),
        *_table("Fields", fields),
        *_table("Answer", given),
        *_table("Refusals", refusals),
    )


def _properties(content: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Lists the fields of a form or an answer; those of an item of a list as "hits[].label"."""
    for media in content.values():
        return _fields(media.get("schema", {}), schema, "")
    return []


def _fields(value: dict[str, Any], schema: dict[str, Any], prefix: str) -> list[tuple[str, dict[str, Any]]]:
    name = value.get("$ref", "").rsplit("/", 1)[-1]
    found = []
    for field, told in schema["components"]["schemas"].get(name, {}).get("properties", {}).items():
        found.append((prefix + field, told))
        found += _fields(told.get("items", {}), schema, f"{prefix}{field}[].")
    return found


def _words(value: dict[str, Any]) -> str:
    """Says a type in words, such as "integer, 1 to 100"."""
    for choice in value.get("anyOf", []):
        if choice.get("type") != "null":
            return f"{_words(choice)}, or null"
    if value.get("type") == "array":
        return "list" if "$ref" in value["items"] else f"list of {_words(value['items'])}"
    kind = "file" if "contentMediaType" in value or value.get("format") == "binary" else value.get("type", "")
    limits = [f"{value[name]:,.0f}" for name in ("minimum", "maximum") if name in value]
    return f"{kind}, {' to '.join(limits)}" if limits else kind


def _example(path: str, method: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {})
    flags = [] if method == "get" else [f"-X {method.upper()}"] if not body else []
    flags += ["-H 'Authorization: Bearer TOKEN'"] if operation.get("security") else []
    flags += ["-F label=NAME", "-F photos=@photo.jpg"] if path == "/articles" and body else []
    flags += ["-F photo=@photo.jpg"] if path in ("/search", "/classify") else []
    address = quote(path, safe="/{}").replace("{row}", "0").replace("{label}", "NAME")
    query = "?id=ID" if path == "/articles" and method == "delete" else ""
    return " ".join(["curl", *flags, f"'http://localhost:8000{address}{query}'"])


def _table(caption: str, rows: Sequence[tuple[str, str, str]]) -> list[Markup]:
    if not rows:
        return []
    lines = [
        tag("tr", tag("th", name, scope="row"), tag("td", kind), tag("td", told)) for name, kind, told in rows
    ]
    return [tag("div", tag("table", tag("caption", caption), tag("tbody", *lines)), class_="scroll")]
