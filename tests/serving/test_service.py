import asyncio
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from toy import BEARER, LABELS, WORD, as_bytes, drawn, make_index, photo_of, served, toy_embedder

from fsl_jax.embedder import Embedder
from fsl_jax.search.index import Index
from fsl_jax.serving import limits as limits_module
from fsl_jax.serving import service as service_module
from fsl_jax.serving.metrics import JsonLines


def added(client, label, *photos, headers=BEARER):
    files = [("photos", (f"{i}.png", photo, "image/png")) for i, photo in enumerate(photos)]
    return client.post("/articles", files=files, data={"label": label}, headers=headers)


def best_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"][0]


@pytest.mark.parametrize("label", LABELS)
def test_a_photo_of_the_index_finds_its_article_first(client, label):
    hit = best_of(client.search(photo_of(label, 1)))
    assert (hit["label"], hit["id"], hit["photos"]) == (label, f"{label}/1.png", 2)
    assert hit["score"] == pytest.approx(1, abs=1e-5)
    assert client.get(hit["thumbnail"]).content[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_deflate"}),
    ],
)
def test_each_format_is_read(client, kind, options):
    assert best_of(client.search(as_bytes(drawn("red cap", size=256), kind, **options)))["label"] == "red cap"


def test_a_photo_taken_sideways_is_turned(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = as_bytes(drawn("green boot").rotate(90), "JPEG", exif=exif, quality=95)
    assert best_of(client.search(photo))["label"] == "green boot"


def test_articles_are_grouped_and_sorted_and_as_many_as_asked_for(client):
    hits = client.search(photo_of("red bag"), k=7).json()["hits"]
    assert len(hits) == 7 == len({hit["label"] for hit in hits})
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert len(client.search(photo_of("red bag")).json()["hits"]) == 5  # the service's own number
    assert len(client.search(photo_of("red bag"), k=100).json()["hits"]) == len(LABELS)


def test_without_a_calibration_nothing_is_said_of_sameness(client):
    answer = client.search(photo_of("red bag")).json()
    assert answer["threshold"] is None
    assert {(hit["probability"], hit["same_article"]) for hit in answer["hits"]} == {(None, None)}


def test_with_a_calibration_the_threshold_says_what_is_the_same(tmp_path):
    make_index(tmp_path / "index", calibrated=True)
    with served(tmp_path / "index") as client:
        answer = client.search(photo_of("red bag")).json()
    assert answer["threshold"] == pytest.approx(0.97)
    assert [hit["same_article"] for hit in answer["hits"]] == [hit["score"] >= 0.97 for hit in answer["hits"]]
    assert answer["hits"][0]["same_article"]
    assert not answer["hits"][-1]["same_article"]
    chances = [hit["probability"] for hit in answer["hits"]]
    assert chances == sorted(chances, reverse=True)
    assert 0 <= chances[-1] < chances[0] <= 1


def test_classify_names_the_label(client):
    answer = client.post("/classify", files={"photo": photo_of("blue cap", 1)}, data={"k": 3}).json()
    assert answer["label"] == "blue cap"
    assert next(each["label"] for each in answer["ranked"]) == "blue cap"
    assert len(answer["ranked"]) == 3
    assert answer["probability"] == answer["ranked"][0]["probability"]


def test_the_list_has_pages(client):
    first, second = (client.get(f"/articles?offset={offset}&limit=7").json() for offset in (0, 7))
    found = first["articles"] + second["articles"]
    assert [each["label"] for each in found] == sorted(LABELS)
    assert first["total"] == 12
    assert found[0]["ids"] == ["blue bag/0.png", "blue bag/1.png"]
    assert client.get("/articles?offset=99").json()["articles"] == []


def test_health_tells_what_is_allowed(client):
    health = client.get("/health").json()
    assert (health["status"], health["photos"], health["articles"]) == ("ready", 24, 12)
    assert (health["max_upload"], health["k"], health["writable"]) == (300_000, 5, True)


def test_an_added_article_is_found_at_once_and_a_removed_one_never_again(changing):
    photo = as_bytes(drawn("red cap").rotate(180))
    assert added(changing, "upside down", photo).status_code == 201
    assert best_of(changing.search(photo))["label"] == "upside down"
    assert len(Index.open(changing.guard.app.state.service.catalogue.shelf.index.folder)) == 13
    assert changing.delete("/articles/upside down", headers=BEARER).json() == {"removed": 1}
    assert "upside down" not in {hit["label"] for hit in changing.search(photo, k=100).json()["hits"]}


def test_what_another_process_adds_is_found(changing):
    catalogue = changing.guard.app.state.service.catalogue
    photo = as_bytes(drawn("red cap").rotate(180))
    other = Index.open(catalogue.shelf.index.folder)
    embedder = catalogue.shelf.searcher.embedder
    image = limits_module.decode(photo, other.preprocess)
    other.add(
        np.asarray(embedder.embed(image[None])), ids=["new/0"], labels=["from elsewhere"], paths=[""],
        thumbnails=[limits_module.thumbnail_of(photo)], digest=embedder.digest,
    )  # fmt: skip
    end = time.monotonic() + 20
    while changing.get("/health").json()["photos"] != 13 and time.monotonic() < end:
        time.sleep(0.1)
    assert best_of(changing.search(photo))["label"] == "from elsewhere"


def test_an_index_that_goes_away_is_told_once_and_served_on(changing, caplog, monkeypatch):
    monkeypatch.setattr(service_module, "WATCHED", 0.05)
    catalogue = changing.guard.app.state.service.catalogue
    (catalogue.shelf.index.folder / "index.json").rename(catalogue.shelf.index.folder / "aside")
    end, told = time.monotonic() + 20, []
    while not told and time.monotonic() < end:
        time.sleep(0.1)
        told = [r for r in caplog.records if "cannot be served" in r.message]
    time.sleep(0.5)
    assert len([r for r in caplog.records if "cannot be served" in r.message]) == 1
    assert changing.search(as_bytes(drawn("red cap"))).status_code == 200


def test_all_photos_of_a_request_are_added_or_none(changing):
    good = [as_bytes(drawn("red cap").rotate(angle)) for angle in (90, 180)]
    refused = added(changing, "new", *good, b"\x89PNG\r\n\x1a\nbroken")
    assert (refused.status_code, refused.json()["error"][:13]) == (422, "photo 3 of 3:")
    assert changing.get("/health").json()["photos"] == 12
    answer = added(changing, "new", *good)
    assert answer.json()["photos"] == 2 == len(answer.json()["ids"])


def test_the_same_photo_is_not_added_twice(changing):
    photo = as_bytes(drawn("red cap").rotate(180))
    assert added(changing, "new", photo, photo).status_code == 409
    assert added(changing, "new", photo).status_code == 201
    again = added(changing, "new", photo)
    assert again.status_code == 409
    assert "is in the index already" in again.json()["error"]
    assert str(changing.guard.app.state.service.catalogue.shelf.index.folder) not in again.text


def test_single_photos_are_removed_by_their_ids(changing):
    assert changing.delete(
        "/articles", params={"id": ["red bag/0.png", "red cap/0.png"]}, headers=BEARER
    ).json() == {"removed": 2}
    assert changing.get("/health").json()["photos"] == 10
    gone = changing.delete("/articles", params={"id": ["blue bag/0.png", "red bag/0.png"]}, headers=BEARER)
    assert gone.status_code == 404
    assert changing.get("/health").json()["photos"] == 10


def test_an_emptied_index_answers_and_takes_photos_again(changing):
    for label in LABELS:
        assert changing.delete(f"/articles/{label}", headers=BEARER).status_code == 200
    assert changing.search(photo_of("red bag")).json()["hits"] == []
    assert changing.post("/classify", files={"photo": photo_of("red bag")}).json()["label"] is None
    assert added(changing, "red bag", photo_of("red bag")).status_code == 201
    assert best_of(changing.search(photo_of("red bag")))["label"] == "red bag"


def test_a_thumbnail_stays_what_it_was_though_rows_move(changing):
    hit = best_of(changing.search(photo_of("red cap")))
    before = changing.get(hit["thumbnail"]).content
    changing.delete("/articles/blue bag", headers=BEARER)
    assert changing.get(hit["thumbnail"]).content == before
    moved = best_of(changing.search(photo_of("red cap")))
    assert moved["thumbnail"] != hit["thumbnail"]
    assert changing.get(moved["thumbnail"]).content == before


def test_searches_go_on_while_articles_come_and_go(changing):
    photos = {
        f"turned {angle}": as_bytes(drawn("red boot").rotate(angle)) for angle in (60, 120, 180, 240, 300)
    }
    stop, wrong = threading.Event(), []

    def ask():
        while not stop.is_set():
            answer = changing.search(photo_of("red bag"))
            if answer.status_code != 200 or answer.json()["hits"][0]["label"] != "red bag":
                wrong.append(answer.text)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        for label, photo in photos.items():
            assert added(changing, label, photo).status_code == 201
            assert best_of(changing.search(photo))["label"] == label
            assert changing.delete(f"/articles/{label}", headers=BEARER).status_code == 200
        stop.set()
        for each in asking:
            each.result()
    assert wrong == []


def test_changes_without_a_configured_token_are_refused_with_403(shop):
    with served(shop, word=None) as client:
        for answer in (
            added(client, "new", photo_of("red bag")),
            client.delete("/articles/red bag", headers=BEARER),
        ):
            assert answer.status_code == 403
            assert "started without a token" in answer.json()["error"]
        assert client.get("/health").json()["writable"] is False


def test_a_wrong_token_is_refused_with_401_before_the_body_is_looked_at(client):
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {WORD}"}):
        answer = client.post("/articles", content=b"no form at all", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_too_many_bytes_are_refused_with_and_without_a_stated_length(client):
    async def pieces():
        yield b'--b\r\ncontent-disposition: form-data; name="photo"; filename="a"\r\n\r\n'
        for _ in range(20):
            yield b"x" * 65536

    async def sent():
        return await client.http.post(
            "/search", content=pieces(), headers={"content-type": "multipart/form-data; boundary=b"}
        )

    for answer in (client.search(b"\x89PNG\r\n\x1a\n" + bytes(400_000)), client.run(sent())):
        assert answer.status_code == 413
        assert "too large" in answer.json()["error"]


def test_a_slow_upload_is_ended(shop):
    async def pieces():
        yield b"--b\r\n"
        await asyncio.sleep(30)
        yield b""

    with served(shop, timeout=0.3) as client:

        async def sent():
            return await client.http.post(
                "/search", content=pieces(), headers={"content-type": "multipart/form-data; boundary=b"}
            )

        answer = client.run(sent())
        assert answer.status_code == 408
        assert client.search(photo_of("red bag")).status_code == 200


def paused(event):
    """Returns the toy model, which waits for an event once it is told to."""
    toy, waits = toy_embedder(), threading.Event()

    def embed(images):
        if waits.is_set():
            event.wait(20)
        return toy.embed(images)

    return Embedder(embed, toy.preprocess, toy.digest), waits


def test_a_full_service_says_when_to_come_again(shop):
    go_on = threading.Event()
    embedder, waits = paused(go_on)
    with served(shop, max_concurrent=3, embedder=embedder) as client, ThreadPoolExecutor(8) as pool:
        waits.set()
        asked = [pool.submit(client.search, photo_of("red bag")) for _ in range(8)]
        while sum(each.done() for each in asked) < 5:
            pass
        assert client.get("/health").status_code == 200
        go_on.set()
        answers = [each.result() for each in asked]
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 5
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"1"}


def test_a_model_that_takes_too_long_gives_503_and_not_a_hanging_client(shop):
    go_on = threading.Event()
    embedder, waits = paused(go_on)
    with served(shop, timeout=0.3, embedder=embedder) as client:
        waits.set()
        answer = client.search(photo_of("red bag"))
        waits.clear()
        go_on.set()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert client.search(photo_of("red bag")).status_code == 200


def test_a_failure_inside_is_told_without_its_traceback(shop, caplog):
    toy, fails = toy_embedder(), threading.Event()

    def embed(images):
        if fails.is_set():
            raise RuntimeError("a secret of the house")
        return toy.embed(images)

    with served(shop, embedder=Embedder(embed, toy.preprocess, toy.digest)) as client:
        fails.set()
        answer = client.search(photo_of("red bag"))
        fails.clear()
        assert answer.status_code == 500
        assert answer.headers["x-request-id"] in answer.json()["error"]
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        assert client.search(photo_of("red bag")).status_code == 200
    [failed] = [record for record in caplog.records if record.exc_info]
    assert "a secret of the house" in JsonLines().format(failed)


def test_a_stopping_service_refuses(shop):
    with served(shop) as client:
        client.guard.draining = True
        for path in ("/health", "/", "/articles"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"error": "the service is stopping"})
        assert client.get("/metrics").status_code == 200


def test_each_request_has_one_line_and_no_photo_in_it(client, caplog):
    with caplog.at_level(logging.INFO, logger="fsl_jax.serving"):
        answer = client.search(photo_of("red bag"))
        client.get("/a%0d%0ab?secret=1")
    lines = [JsonLines().format(each) for each in caplog.records if each.name == "fsl_jax.serving"]
    first, second = map(json.loads, lines)
    assert set(first) == {
        "time",
        "level",
        "message",
        "id",
        "method",
        "path",
        "status",
        "ms",
        "bytes",
        "bytes_out",
    }
    assert (first["id"], first["path"], first["status"]) == (answer.headers["x-request-id"], "/search", 200)
    assert first["bytes"] > len(photo_of("red bag"))
    assert first["bytes_out"] == len(answer.content)
    assert second["path"] == "/a\r\nb"
    assert "\n" not in lines[1]


def test_metrics_count_by_template_and_not_by_address(shop):
    with served(shop) as client:
        client.get("/thumbnails/0")
        client.get("/thumbnails/1")
        client.get("/some/where")
        client.request("NONSENSE", "/search")
        client.search(photo_of("red bag"))
        text = client.get("/metrics").text
    assert 'fsl_jax_requests_total{method="GET",route="/thumbnails/{row}",status="200"} 2.0' in text
    assert 'fsl_jax_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'method="other"' in text
    assert "NONSENSE" not in text
    assert "fsl_jax_index_photos 24.0" in text
    assert 'fsl_jax_batch_photos_bucket{le="1.0"} 1.0' in text


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/page.css", "/docs", "/openapi.json", "/health", "/nothing", "/thumbnails/0"]
)
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/docs"])
def test_the_pages_load_nothing_from_elsewhere(client, path):
    text = (
        client.get(path).text.replace("http://www.w3.org/2000/svg", "").replace("http://localhost:8000", "")
    )
    assert "http:" not in text
    assert "https:" not in text
    assert "//cdn" not in text
    assert " style=" not in text
    assert "onclick" not in text


def test_the_description_has_every_route_and_its_answers(client):
    paths = client.get("/openapi.json").json()["paths"]
    found = {f"{method} {path}" for path, methods in paths.items() for method in methods}
    assert found == {
        "post /search",
        "post /classify",
        "get /articles",
        "post /articles",
        "delete /articles",
        "delete /articles/{label}",
        "get /thumbnails/{row}",
        "get /health",
        "get /metrics",
    }
    answer = paths["/search"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/Hits"}
    page = client.get("/docs").text
    assert all(f"{each.split()[0].upper()} {each.split()[1]}" in page for each in found)


def test_an_unknown_address_and_a_wrong_method_are_json(client):
    assert client.get("/nothing").json() == {"error": "there is nothing at this address"}
    assert client.get("/search").status_code == 405
    assert client.get("/search").json() == {"error": "this address does not take this method"}
