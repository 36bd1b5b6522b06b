"""The server under load: many clients on this machine, each asking again as soon as it is answered.

  python -m experiments.benchmark --suite=serving --config=FILE --workdir=DIR

serves the finished run in DIR (its log goes to a temporary folder) in a process of its own; of FILE nothing is read.
Most requests ask for a known user, some for a history, some tell of interactions of new users. At the end every
interaction that was acknowledged must be in the histories. Clients take processor time from the server: they share it.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from experiments import cli
from tokenrec_jax.config import Config
from tokenrec_jax.types import ConfigError

CLIENTS = 200
SECONDS = 60.0
#: Share of the requests that give a history, and that tell of an interaction.
HISTORIES, INTERACTIONS = 0.05, 0.05
#: Users that the interactions are of. With more than the recommender's headroom it would compile under load.
NEW_USERS = 50
#: Seconds after which an unanswered request counts as lost.
TIMEOUT = 30.0
K = 10


def measure(config: Config) -> dict[str, Any]:
    """Returns requests a second, latencies, and what went wrong: nothing should."""
    del config
    with tempfile.TemporaryDirectory() as state, _served(cli.WORKDIR.value, state) as port:
        return asyncio.run(_load(port))


@dataclasses.dataclass
class _Tally:
    """What the clients saw."""

    seconds: dict[str, list[float]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    sent: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    acknowledged: set[tuple[str, str]] = dataclasses.field(default_factory=set)


class _Connection:
    """One client's connection, kept alive. Speaks just enough HTTP to cost little."""

    def __init__(self, port: int):
        self._port = port

    async def __aenter__(self) -> "_Connection":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Returns status and body of the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n"
        self._writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
        async with asyncio.timeout(TIMEOUT):
            top = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", top)
            return int(top.split(b" ", 2)[1]), await self._reader.readexactly(int(length[1]) if length else 0)

    async def get(self, path: str) -> Any:
        """Returns the object that a path answers with."""
        status, body = await self.call("GET", path)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {body[:200]!r}")
        return json.loads(body)


async def _load(port: int) -> dict[str, Any]:
    async with _Connection(port) as asking:
        users = (await asking.get("/users?limit=200"))["users"]
        items = [row["item"] for row in (await asking.get("/items?limit=200"))["items"]]
    tally = _Tally()
    end = time.perf_counter() + SECONDS
    logging.info("%d clients for %d s", CLIENTS, SECONDS)
    started = time.perf_counter()
    await asyncio.gather(*(_client(port, number, end, users, items, tally) for number in range(CLIENTS)))
    elapsed = time.perf_counter() - started
    answered = sum(map(len, tally.seconds.values()))
    async with _Connection(port) as asking:
        missing = await _missing(asking, tally.acknowledged)
        _, metrics = await asking.call("GET", "/metrics")
    return {
        "clients": CLIENTS,
        "seconds": elapsed,
        "requests": tally.sent,
        "requests_per_second": answered / elapsed,
        "milliseconds": {kind: _percentiles(times) for kind, times in tally.seconds.items()},
        "errors": len(tally.wrong),
        "first_errors": tally.wrong[:5],
        "lost_requests": tally.sent - answered - len(tally.wrong),
        "acknowledged_interactions": len(tally.acknowledged),
        "lost_interactions": missing,
        "requests_per_batch": _mean(metrics.decode(), "tokenrec_batch_size", "recommend"),
        "seconds_per_batch": _mean(metrics.decode(), "tokenrec_batch_seconds", "recommend"),
        "writes_per_fsync": _mean(metrics.decode(), "tokenrec_batch_size", "record"),
        "seconds_per_write": _mean(metrics.decode(), "tokenrec_batch_seconds", "record"),
    }


async def _client(
    port: int, number: int, end: float, users: Sequence[str], items: Sequence[str], tally: _Tally
) -> None:
    draw = random.Random(number)
    async with _Connection(port) as connection:
        while (started := time.perf_counter()) < end:
            kind, chance = "user", draw.random()
            path, body = "/recommend", {"user": draw.choice(users), "k": K}
            interaction = (f"new-{draw.randrange(NEW_USERS)}", draw.choice(items))
            if chance < HISTORIES:
                kind, body = "history", {"history": draw.sample(items, draw.randint(1, 20)), "k": K}
            elif chance < HISTORIES + INTERACTIONS:
                row = dict(zip(("user", "item"), interaction, strict=True))
                kind, path, body = "interaction", "/interactions", {"interactions": [row]}
            tally.sent += 1
            try:
                status, answer = await connection.call("POST", path, body)
                if status != 200:
                    raise RuntimeError(f"{status} {answer[:200]!r}")
            except Exception as error:
                tally.wrong.append(f"{kind}: {type(error).__name__} {error}")
                return
            tally.seconds[kind].append(time.perf_counter() - started)
            if kind == "interaction":
                tally.acknowledged.add(interaction)


async def _missing(connection: _Connection, acknowledged: set[tuple[str, str]]) -> int:
    """Returns how many acknowledged interactions are in no history."""
    missing = 0
    for user in {user for user, _ in acknowledged}:
        history = (await connection.get(f"/users/{user}/history?limit=200"))["history"]
        has = {row["item"] for row in history}
        missing += sum(item not in has for name, item in acknowledged if name == user)
    return missing


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{part}": 1e3 * ordered[min(len(ordered) * part // 100, len(ordered) - 1)] for part in (50, 99, 100)}


def _mean(metrics: str, name: str, queue: str) -> float | None:
    """Returns the mean of a histogram over the batches of a queue."""
    found = [re.search(rf'{name}_{part}{{queue="{queue}"}} (\S+)', metrics) for part in ("sum", "count")]
    return float(found[0][1]) / float(found[1][1]) if found[0] and found[1] else None


@contextlib.contextmanager
def _served(workdir: str, state: str) -> Iterator[int]:
    """Yields the port of a server of a run; afterwards it must end by itself without a failure."""
    if not workdir:
        raise ConfigError("--workdir: not given; name a finished run to serve")
    said = pathlib.Path(state, "said")
    command = [sys.executable, "-m", "experiments.serve", f"--workdir={workdir}", f"--state={state}", "--port=0"]
    with said.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            while not (found := re.search(r"listening on http://\S+:(\d+)/", said.read_text(encoding="utf-8"))):
                if process.poll() is not None:
                    raise ConfigError(f"the server did not start: {' '.join(said.read_text().split())[-300:]}")
                time.sleep(0.2)
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=60)
        if status:
            raise RuntimeError(f"the server ended with status {status}: {said.read_text()[-1000:]}")
