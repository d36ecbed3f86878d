"""The service as a process: real sockets, real signals."""

import json
import signal
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from toy import as_bytes, drawn, photo_of, process

HEAD = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


def connection(address):
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def answer_of(opened):
    received = b""
    while piece := opened.recv(65536):
        received += piece
    return received


def begun(address, body):
    """Opens a search whose body is half sent."""
    opened = connection(address)
    head = (
        "POST /search HTTP/1.1\r\nHost: shop\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    opened.sendall(head.encode() + body[: len(body) // 2])
    return opened


def test_sigterm_finishes_what_runs_refuses_what_comes_and_exits_with_0(shop):
    body = HEAD + photo_of("red bag") + TAIL
    with process(shop) as (started, address, lines):
        opened = begun(address, body)
        time.sleep(0.3)
        started.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        refused = httpx.post(f"{address}/search", files={"photo": photo_of("red bag")})
        assert (refused.status_code, refused.json()) == (503, {"error": "the service is stopping"})
        assert started.poll() is None
        opened.sendall(body[len(body) // 2 :])
        answer = answer_of(opened)
        opened.close()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"label":"red bag"' in answer
        assert started.wait(20) == 0
    logged = [json.loads(line) for line in lines]
    assert {(each["path"], each["status"]) for each in logged if each.get("method") == "POST"} == {
        ("/search", 200),
        ("/search", 503),
    }


def test_an_idle_service_stops_at_once(shop):
    with process(shop) as (started, address, _), httpx.Client() as client:
        assert client.get(f"{address}/health").status_code == 200  # a connection that is kept open
        start = time.monotonic()
        started.send_signal(signal.SIGINT)
        assert started.wait(20) == 0
        assert time.monotonic() - start < 8


@pytest.fixture(scope="module")
def address(shop):
    with process(shop, "timeout=2") as (started, address, _):
        yield address
        assert started.poll() is None


RAW = [
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET //etc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\nConnection: close\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
]


@pytest.mark.parametrize("sent", RAW, ids=range(len(RAW)))
def test_broken_http_is_refused_and_the_service_goes_on(address, sent):
    with connection(address) as opened:
        try:
            opened.sendall(sent)
            opened.shutdown(socket.SHUT_WR)
            answer = answer_of(opened)
        except OSError:
            answer = b""  # closed without an answer, which will do
    # A whole request of a version that does not exist may be answered in one that does.
    answered = b'"status":"ready"' in answer or (b"HTTP/9.9" in sent and b"<!doctype html>" in answer)
    assert answer == b"" or answer.split()[1][:1] == b"4" or answered
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_client_that_is_refused_half_way_reads_why(address):
    answer = httpx.post(f"{address}/search", files={"photo": b"\x89PNG\r\n\x1a\n" + bytes(1_200_000)})
    assert answer.status_code == 413
    assert "too large" in answer.json()["error"]


def test_a_stalled_upload_is_ended(address):
    opened = begun(address, HEAD + photo_of("red bag") + TAIL)
    start = time.monotonic()
    answer = answer_of(opened)
    assert answer.startswith(b"HTTP/1.1 408")
    assert (
        b"\r\nconnection: close\r\n" in answer.lower()
    )  # the rest of the body would be read as the next request
    opened.close()
    assert time.monotonic() - start < 12


def test_a_client_that_leaves_harms_nobody(address):
    for _ in range(5):
        begun(address, HEAD + photo_of("red bag") + TAIL).close()
    photo = as_bytes(drawn("red bag"), "JPEG")
    assert httpx.post(f"{address}/search", files={"photo": photo}).json()["hits"][0]["label"] == "red bag"
