"""What a request may hold and how long it may take; what is refused is refused in plain words, before any decoding."""

import asyncio
import dataclasses
import hashlib
import hmac
import io
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsl_jax.data.augment import Preprocess
from fsl_jax.data.read import UnreadablePhoto, read_photo
from fsl_jax.serving.metrics import LOG, Exchange, Meter

MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names; MPO is a JPEG with further pictures behind it, as phones write them."""
NAMED = "JPEG, PNG, WebP, GIF, BMP or TIFF"
LABEL_CHARACTERS = 200
PHOTOS_AT_ONCE = 16
"""Photos of one article in one request."""
ENVELOPE = 64 << 10
"""Bytes that a form may have around its photos."""
WRITING_SECONDS = 120.0
"""The least time limit of a request that changes the index: half a change helps nobody."""
HEAVY, HEAVY_JPEG = 8_000_000, 16_000_000
"""Pixels from which on photos are decoded one at a time; of a JPEG only the needed share is ever unpacked."""
SWALLOW_SECONDS = 2.0
ID = "fsl_jax.id"
"""Where the scope of a request has its id."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer; a route may state its own. The page itself loads nothing from elsewhere and has no inline script."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one service allows.

    Attributes:
      max_upload: Bytes of one photo.
      max_pixels: Width times height of a photo, as its header states them.
      max_concurrent: Requests in work at once, and photos that wait for the model; further ones get 503.
      timeout: Seconds a request may take, its upload included.
      k: Articles of an answer where the client names no number.
    """

    max_upload: int
    max_pixels: int
    max_concurrent: int
    timeout: float
    k: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} is {value}; expected more than 0")
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and self.max_pixels > most:
            raise ValueError(f"max_pixels is {self.max_pixels}; Pillow itself decodes at most {most}")

    def body(self, method: str, path: str) -> int:
        """Returns how many bytes the body of a request may have."""
        photos = PHOTOS_AT_ONCE if writes(method, path) else 1
        return photos * self.max_upload + ENVELOPE

    def seconds(self, method: str, path: str) -> float:
        """Returns how long a request may take."""
        return max(self.timeout, WRITING_SECONDS) if writes(method, path) else self.timeout


def writes(method: str, path: str) -> bool:
    """Says whether a request is meant to change the index."""
    return method not in ("GET", "HEAD", "OPTIONS") and (path == "/articles" or path.startswith("/articles/"))


class Refused(HTTPException):
    """A request that is not done, and why."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        """Takes the reason as the client shall read it.

        Args:
          status: HTTP status.
          message: Plain text.
          **headers: Of the answer; retry_after is Retry-After.
        """
        super().__init__(status, message, {name.replace("_", "-"): value for name, value in headers.items()})


def busy() -> Refused:
    """Returns the refusal of a full service."""
    return Refused(503, "the service is busy; try again in a moment", retry_after="1")


def failed(id: str) -> Refused:
    """Returns what a client is told of a fault inside: where the log tells more."""
    return Refused(500, f"the service failed; its log says why, under {id}")


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of a photo says.

    Attributes:
      format: Pillow's name.
      pixels: Width times height.
    """

    format: str
    pixels: int

    @property
    def heavy(self) -> bool:
        """Whether decoding takes so much memory that it is done one at a time."""
        return self.pixels > (HEAVY_JPEG if self.format in ("JPEG", "MPO") else HEAVY)


def check_photo(data: bytes, limits: Limits) -> Header:
    """Looks at a photo's size, first bytes and header; nothing is decoded.

    Args:
      data: The file.
      limits: Bytes and pixels.

    Returns:
      What the header says.

    Raises:
      Refused: 413 too large, 415 another format, 422 empty or broken.
    """
    if not data:
        raise Refused(422, "the photo is empty")
    if len(data) > limits.max_upload:
        raise _too_many_bytes(limits.max_upload)
    if not _known(data):
        raise Refused(415, f"this is no photo that can be read; expected {NAMED}")
    try:
        # The same call as `read_photo` makes, so that no other plugin can take the file afterwards.
        with Image.open(io.BytesIO(data)) as image:
            (width, height), found = image.size, image.format
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(413, f"the photo has too many pixels; at most {limits.max_pixels:,}") from error
    except Exception as error:  # broken headers raise anything: OSError, SyntaxError, struct.error, ...
        raise Refused(422, "the photo is broken: its header cannot be read") from error
    if found not in FORMATS:
        raise Refused(415, f"this is no photo that can be read; expected {NAMED}")
    if width < 1 or height < 1:
        raise Refused(422, f"the photo is broken: its header says {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise Refused(
            413, f"the photo has too many pixels: {width:,} x {height:,}; at most {limits.max_pixels:,}"
        )
    return Header(str(found), width * height)


def _known(data: bytes) -> bool:
    return data.startswith(tuple(MAGIC)) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _too_many_bytes(most: int) -> Refused:
    return Refused(413, f"the photo is too large; at most {most / 1e6:.3g} MB")


def decode(data: bytes, preprocess: Preprocess) -> UInt8[np.ndarray, "s s c"]:
    """Decodes a checked photo as the square that the model takes.

    Raises:
      Refused: 422, the photo is broken.
    """
    size, channels, fit = preprocess.size, preprocess.channels, preprocess.fit
    try:
        return read_photo(io.BytesIO(data), size=size, channels=channels, fit=fit)  # type: ignore[arg-type]
    except UnreadablePhoto as error:
        raise Refused(422, f"the photo cannot be read: {error.reason[:LABEL_CHARACTERS]}") from error


def thumbnail_of(data: bytes) -> bytes:
    """Makes the small JPEG of a checked photo.

    Raises:
      Refused: 422, the photo is broken.
    """
    from fsl_jax.search._thumbnails import file_thumbnail

    try:
        return file_thumbnail(io.BytesIO(data))
    except UnreadablePhoto as error:
        raise Refused(422, f"the photo cannot be read: {error.reason[:LABEL_CHARACTERS]}") from error


def check_label(label: str) -> str:
    """Returns a label as it is kept: without blanks at its ends.

    Raises:
      Refused: 422, it is empty, too long, has a slash, or characters that cannot be seen or that turn text around.
    """
    label = label.strip()
    if not label:
        raise Refused(422, "the label is empty")
    if len(label) > LABEL_CHARACTERS:
        raise Refused(422, f"the label has {len(label):,} characters; at most {LABEL_CHARACTERS}")
    if "/" in label or "\\" in label or label in (".", ".."):
        raise Refused(422, "the label has a slash or is a dot; give it a plain name")
    if any(_unseen(character) for character in label):
        raise Refused(422, "the label has control characters; give it plain text")
    return label


def _unseen(character: str) -> bool:
    # Of the format characters (Cf) those that join letters and emoji are needed; U+FEFF and the tags are not.
    category = unicodedata.category(character)
    turning = unicodedata.bidirectional(character) in (
        "LRE",
        "RLE",
        "LRO",
        "RLO",
        "PDF",
        "LRI",
        "RLI",
        "FSI",
        "PDI",
    )
    return category in ("Cc", "Cs", "Cn", "Zl", "Zp") or turning or character in "\ufeff\ufffd"


class Token:
    """The word that allows changes; only its checksum is kept."""

    def __init__(self, word: str | None) -> None:
        """Takes the word; None where nobody may change the index."""
        self._digest = None if word is None else _digest(word)

    @property
    def known(self) -> bool:
        """Whether there is one at all."""
        return self._digest is not None

    def check(self, authorization: str | None) -> None:
        """Compares what a client sent, in a time that does not depend on how much of it is right.

        Args:
          authorization: The header, "Bearer WORD".

        Raises:
          Refused: 403 where no token is configured, 401 where this one is wrong or missing.
        """
        if self._digest is None:
            raise Refused(403, "this service is read-only: it was started without a token (--token-file)")
        scheme, _, word = (authorization or "").partition(" ")
        right = hmac.compare_digest(self._digest, _digest(word.strip()))
        if scheme.lower() != "bearer" or not right:
            raise Refused(
                401,
                "the token is missing or wrong; send 'Authorization: Bearer TOKEN'",
                www_authenticate="Bearer",
            )


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogateescape")).digest()


def read_token(file: Path | None, environment: Mapping[str, str]) -> Token:
    """Reads the token from a file, or from FSL_JAX_TOKEN.

    Raises:
      ValueError: It is shorter than 16 characters, or holds blanks or other than ASCII.
      OSError: The file cannot be read.
    """
    given = file.read_text(encoding="utf-8") if file is not None else environment.get("FSL_JAX_TOKEN")
    if given is None:
        return Token(None)
    word, where = given.strip(), f"{file}" if file is not None else "FSL_JAX_TOKEN"
    if (
        len(word) < 16
        or not word.isascii()
        or any(not character.isprintable() or character == " " for character in word)
    ):
        raise ValueError(
            f"{where}: the token has {len(word)} characters; expected 16 or more of ASCII without blanks, such as "
            "from: openssl rand -hex 32"
        )
    return Token(word)


class Guard:
    """The layer around the service: refuses what is too much, ends what takes too long, and keeps the record.

    Attributes:
      running: Requests in work.
      draining: The service is about to stop: what runs is finished, what comes is refused.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, meter: Meter) -> None:
        """Wraps an ASGI application."""
        self.app, self._limits, self._meter = app, limits, meter
        self.running, self.draining = 0, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope["method"], scope["path"])
        scope[ID] = exchange.id
        passage = _Passage(exchange, receive, send, self._limits.body(exchange.method, exchange.path))
        self.running += 1
        self._meter.running.set(self.running)
        try:
            await self._within_time(scope, exchange, passage)
        except Refused as refused:
            await passage.refuse(refused)
        except Exception:
            LOG.exception("failed", extra={"fields": {"id": exchange.id}})
            await passage.refuse(failed(exchange.id))
        finally:
            self.running -= 1
            self._meter.running.set(self.running)
            self._meter.record(exchange, getattr(scope.get("route"), "path", None))

    async def _within_time(self, scope: Scope, exchange: Exchange, passage: "_Passage") -> None:
        self._check(scope, exchange)
        try:
            async with asyncio.timeout(self._limits.seconds(exchange.method, exchange.path)) as limit:
                await self.app(scope, passage.receive, passage.send)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if exchange.whole:
                raise Refused(503, "the service took too long; try again", retry_after="5") from error
            raise Refused(408, "the upload took too long; send a smaller photo") from error

    def _check(self, scope: Scope, exchange: Exchange) -> None:
        if exchange.path == "/metrics":
            return
        if self.draining:
            raise Refused(503, "the service is stopping", retry_after="5")
        if exchange.path != "/health" and self.running > self._limits.max_concurrent:
            raise busy()
        most = self._limits.body(exchange.method, exchange.path)
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated[:20]) > most:
            raise _too_many_bytes(self._limits.max_upload)


class _Passage:
    """Both directions of one request: counts bytes, stops at the limit, and adds headers."""

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, most: int) -> None:
        self._exchange, self._receive, self._send, self._most = exchange, receive, send, most
        self._refused = False

    async def receive(self) -> Message:
        """Takes the next piece of the body."""
        message = await self._take()
        if self._exchange.bytes_in > self._most and not self._refused:
            raise _too_many_bytes(self._most - ENVELOPE)
        return message

    async def _take(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._exchange.bytes_in += len(message.get("body", b""))
            self._exchange.whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Sends the next piece of the answer."""
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                await self._swallow()
            message = self._with_headers(message)
            self._exchange.status, self._exchange.begun = message["status"], True
        else:
            self._exchange.bytes_out += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answers with the reason, unless another answer has begun."""
        if self._exchange.begun:
            return
        body = error_body(str(refused.detail))
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **(refused.headers or {}),
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refused.status_code, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def _swallow(self) -> None:
        """Reads on for a moment where a request is refused half-way.

        A client that still sends would else see its connection reset, and never the reason.
        """
        self._refused = True
        most = self._exchange.bytes_in + 4 * self._most
        try:
            async with asyncio.timeout(SWALLOW_SECONDS):
                while not self._exchange.whole and self._exchange.bytes_in < most:
                    if (await self._take())["type"] == "http.disconnect":
                        return
        except TimeoutError:
            return

    def _with_headers(self, message: Message) -> Message:
        stated = {name.lower() for name, _ in message.get("headers", [])}
        added = HEADERS | {"x-request-id": self._exchange.id}
        if not self._exchange.whole and message["status"] >= 400:
            added["connection"] = "close"  # what is left of the body is no next request
        extra = [(n.encode(), v.encode()) for n, v in added.items() if n.encode() not in stated]
        return {**message, "headers": [*message.get("headers", []), *extra]}


def error_body(message: str) -> bytes:
    """Returns the JSON of a refusal; ASCII, so that no text of a client can break it."""
    return json.dumps({"error": message}).encode()


def as_json(content: Any) -> bytes:
    """Returns JSON that any text survives, lone surrogates of odd file names too."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
