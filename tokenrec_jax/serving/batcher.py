"""Requests that arrive together are worked on together. Knows nothing of what they are. Read `Batcher`.

One thread does the work, so that a batch runs while the next one gathers: under load batches grow by themselves, and
the latency budget only matters when there is little to do.
"""

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Request = TypeVar("Request")
Result = TypeVar("Result")


class Full(Exception):
    """As many requests wait as may; try again later."""


class Closed(Exception):
    """No more requests are taken."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How requests are gathered.

    Attributes:
      batch: most requests in one batch.
      wait: seconds that the first request of a batch waits for others, if there is nothing else to do.
      pending: most requests that wait at any time, those at work not counted.
    """

    batch: int = 64
    wait: float = 0.002
    pending: int = 1024


@dataclasses.dataclass
class _Waiting(Generic[Request, Result]):
    request: Request
    arrived: float
    result: asyncio.Future[Result]


class Batcher(Generic[Key, Request, Result]):
    """Groups requests by a key and hands each group to a function in a thread of its own.

    All methods belong to one event loop.
    """

    def __init__(self, run: Callable[[Key, list[Request]], Sequence[Result | Exception]], *, limits: Limits, name: str):
        """Prepares; nothing runs before `start`.

        Args:
          run: returns one result a request, in order; a result that is an exception is raised for that request
            alone, an exception that it raises for all of them.
          limits: how requests are gathered.
          name: of the thread.
        """
        self._run = run
        self._limits = limits
        self._name = name
        # Waiting requests of each key; a key is here only while it has some.
        self._groups: dict[Key, collections.deque[_Waiting[Request, Result]]] = {}
        self._pending = 0
        self._closed = True

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return self._pending

    def start(self) -> None:
        """Begins to work in the running event loop."""
        self._closed = False
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._task = asyncio.create_task(self._work(), name=self._name)

    async def close(self) -> None:
        """Takes no more requests and returns when all that were taken are answered."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        await self._task
        self._executor.shutdown()

    async def submit(self, key: Key, request: Request) -> Result:
        """Returns the result of a request.

        Args:
          key: requests with the same key may be in the same batch.
          request: what `run` takes.

        Raises:
          Full, Closed: it was not taken.
        """
        if self._closed:
            raise Closed
        if self._pending >= self._limits.pending:
            raise Full
        loop = asyncio.get_running_loop()
        group = self._groups.setdefault(key, collections.deque())
        waiting = _Waiting(request, loop.time(), loop.create_future())
        group.append(waiting)
        self._pending += 1
        if self._pending == 1 or len(group) == self._limits.batch:
            self._wake.set()
        return await waiting.result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._groups:
                if self._closed:
                    return
                await self._sleep(None)
                continue
            key = min(self._groups, key=lambda name: self._groups[name][0].arrived)
            group = self._groups[key]
            left = group[0].arrived + self._limits.wait - loop.time()
            if left > 0 and len(group) < self._limits.batch and not self._closed:
                await self._sleep(left)
                continue
            batch = [group.popleft() for _ in range(min(len(group), self._limits.batch))]
            if not group:
                del self._groups[key]
            self._pending -= len(batch)
            # Whoever gave up need not be served.
            batch = [waiting for waiting in batch if not waiting.result.done()]
            if batch:
                await self._serve(key, batch)

    async def _serve(self, key: Key, batch: list[_Waiting[Request, Result]]) -> None:
        requests = [waiting.request for waiting in batch]
        results: Sequence[Result | Exception]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, key, requests)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results of {len(batch)} requests")
        except Exception as error:
            results = [error] * len(batch)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.result.done():
                continue
            if isinstance(result, Exception):
                waiting.result.set_exception(result)
            else:
                waiting.result.set_result(result)

    async def _sleep(self, seconds: float | None) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
