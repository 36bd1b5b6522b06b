"""Trainings that die in the middle of a stage."""

import pytest

from tokenrec_jax.sharding import put_batch
from tokenrec_jax.training import loop


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


def kill_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the training loop raise `Killed` where it would take one batch more than that."""
    left = iter(range(batches))

    def dying(batch, mesh):
        if next(left, None) is None:
            raise Killed
        return put_batch(batch, mesh)

    monkeypatch.setattr(loop, "put_batch", dying)


def let_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes `kill_after`."""
    monkeypatch.setattr(loop, "put_batch", put_batch)
