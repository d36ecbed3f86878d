"""The page that describes the JSON interface, from its OpenAPI description."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fsl_jax.evaluation._report.html import Markup, join, tag


def described(schema: dict[str, Any]) -> str:
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
