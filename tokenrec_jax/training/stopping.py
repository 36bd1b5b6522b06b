"""Stopping between two steps by SIGINT or SIGTERM, after the same step in all processes. Read `StopSignals.due`."""

import signal
from contextlib import suppress
from types import TracebackType

import jax
from jax.sharding import Mesh

from tokenrec_jax.sharding import any_process

#: With several processes they tell each other every so many steps whether a signal came.
VOTE_EVERY = 8


class StopSignals:
    """Remembers signals for the time of a `with` block instead of dying in the middle of a step.

    Attributes:
      number: the signal that came last; SIGTERM if none came to this process.
    """

    def __init__(self, mesh: Mesh):
        """Prepares; handlers are set when the block begins."""
        self._mesh = mesh
        self.number: int = signal.SIGTERM
        self._received = False
        self._vote: jax.Array | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            # Only the main thread may set handlers; elsewhere the caller has its own way to stop.
            with suppress(ValueError):
                self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _remember(self, number: int, _frame: object) -> None:
        self.number = number
        self._received = True

    def due(self, step: int, *, last: bool) -> bool:
        """Returns whether the run must stop after this step; the answer is the same in all processes.

        One process answers at once. Several vote on the devices every `VOTE_EVERY` steps and read the result one step
        later, when it is there already, so that no process waits; after the last step they do wait.
        """
        if jax.process_count() == 1:
            return self._received
        vote, self._vote = self._vote, None
        if last or step % VOTE_EVERY == 0:
            self._vote = any_process(self._received, self._mesh)
        if last:
            vote = self._vote
        return vote is not None and bool(jax.device_get(vote))
