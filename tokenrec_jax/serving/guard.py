"""Around every request: may it come in, is it too large, how long did it take, and what if it fails. Read `Guard`."""

import asyncio
import json
import time
from collections.abc import Mapping

from absl import logging
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenrec_jax.serving.access import Access
from tokenrec_jax.serving.metrics import Metrics

#: Bytes of the largest body: a thousand interactions or items with ids and titles of common length.
MAX_BODY = 1 << 20

#: Seconds in which a body must have come.
BODY_SECONDS = 30

#: They hold nothing of the data: a page asks for the key itself, a load balancer has none.
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/health"})


class Guard:
    """ASGI middleware, outside of everything else."""

    def __init__(self, app: ASGIApp, *, access: Access, metrics: Metrics):
        """Wraps `app`."""
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, answer = time.perf_counter(), _Answer(send)
        try:
            await self._admit(scope, receive, answer)
        except Exception:
            logging.exception("%s %s failed", scope["method"], scope["path"])
            if not answer.status:
                await refuse(answer, 500, "internal error; the server's log has more")
        finally:
            # The template of the path: a label a user would be too many.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(_method(scope), route, str(answer.status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    async def _admit(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        refusal = None
        # The host counts everywhere; the key only where there is something to see.
        if scope["path"] not in OPEN_PATHS or not self._access.key:
            refusal = self._access.check(
                authorization=headers.get(b"authorization", b""), host=headers.get(b"host", b"")
            )
        if refusal:
            await refuse(answer, refusal.status, refusal.error)
            return
        body: bytes | None = b""
        # Pages are asked for without a body, and whoever has no key need not be listened to.
        if scope["path"] not in OPEN_PATHS:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await _read(headers, receive)
            except TimeoutError:
                await refuse(answer, 408, f"the body did not come within {BODY_SECONDS} seconds")
                return
        if body is None:
            await refuse(answer, 413, f"the body is too large; allowed are {MAX_BODY} bytes")
            return
        await self._app(scope, _Replay(body, receive), answer)


class _Answer:
    """Passes an answer on and remembers its status, 0 before it has begun."""

    def __init__(self, send: Send):
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
        await self._send(message)


class _Replay:
    """Gives a body that was read already, then what follows it."""

    def __init__(self, body: bytes, receive: Receive):
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive

    async def __call__(self) -> Message:
        message, self._message = self._message, None
        return message or await self._receive()


async def _read(headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
    """Returns the whole body, None if it is too large; never holds more than the limit."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 15 or int(length) > MAX_BODY:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


async def refuse(send: Send, status: int, error: str) -> None:
    """Answers with an error as all others look."""
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode("ascii")})


def _method(scope: Scope) -> str:
    """Returns the method as a label; anybody can invent methods."""
    method = scope["method"]
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
