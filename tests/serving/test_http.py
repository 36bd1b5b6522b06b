"""What clients send that mean no good, over a real socket."""

import contextlib
import socket
import urllib.parse

import pytest

from tests.serving.conftest import listening
from tokenrec_jax.serving import guard
from tokenrec_jax.serving.access import Access
from tokenrec_jax.serving.app import create_app
from tokenrec_jax.serving.guard import MAX_BODY
from tokenrec_jax.serving.http import MAX_HEAD, MAX_REQUEST


@pytest.fixture
def address(engine):
    with listening(create_app(engine, access=Access())) as url:
        parts = urllib.parse.urlsplit(url)
        yield parts.hostname, parts.port


def answer_to(address, *parts: bytes) -> bytes:
    """Returns what the server says until it ends the connection."""
    with socket.create_connection(address, timeout=20) as client:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                client.sendall(part)
        said = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                said += part
        return said


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize("start", [b"GET /health HTTP/1.1\r\n", b"GET /", b"GET /health HTTP/1.1\r\nX-Long: "])
def test_a_head_without_end_is_not_kept(address, start):
    line = b"X-A: " + b"a" * 1000 + b"\r\n" if start.endswith(b"\n") else b"a" * 1000
    said = answer_to(address, start, *[line] * (8 * MAX_HEAD // len(line)))
    assert b"200 OK" not in said and (not said or said.startswith(b"HTTP/1.1 400"))


def test_what_follows_a_body_is_not_kept(address):
    head = b"POST /recommend HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    line = b"X-A: " + b"a" * 60_000 + b"\r\n"
    assert b"200 OK" not in answer_to(address, head, *[line] * (2 * MAX_REQUEST // len(line)))


def test_requests_of_a_connection_are_counted_one_by_one(address):
    body = b'{"user": "u0"}' + b" " * (MAX_BODY // 2)
    head = b"POST /recommend HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n" % len(body)
    parts = [request + b"\r\n" + body] * 39 + [request + b"Connection: close\r\n\r\n" + body]
    assert len(b"".join(parts)) > MAX_REQUEST
    assert answer_to(address, *parts).count(b"HTTP/1.1 200 OK") == 40


def test_a_body_that_never_comes_is_not_waited_for_and_pages_need_none(address, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    head = HOST + b"Content-Length: 10\r\n\r\n{"
    assert answer_to(address, b"POST /recommend HTTP/1.1\r\n" + head).startswith(b"HTTP/1.1 408")
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"POST /health HTTP/1.1\r\n" + head)
        assert client.recv(65536).startswith(b"HTTP/1.1 405")
