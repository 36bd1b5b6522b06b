"""What the jobs of a grid left behind, read back. Read `read_job`.

A *system* is what ranked: `tokenrec`, a trained baseline, or one of those that come along in each run's result.json.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.ablation.plan import Job
from experiments.training import SYSTEM as OURS
from tokenrec_jax.evaluation.comparability import HELD_OUT_NOTICES, PROTOCOL_NOTICES
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Split, TokenRecError

#: The protocol of a run that does not name its own.
HONEST = "honest"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One system on one split.

    Attributes:
      system: that ranked.
      split: `valid` or `test`; of kind `holdout`: such as `users/held_out`.
      metrics: of result.json.
      ranks: of each user's target; None where the run kept none.
      users: whom the ranks belong to; None where the run kept none.
      protocol: of the run.
      held_out: newest interactions of each user that the run did not train on.
    """

    system: str
    split: str
    metrics: dict[str, float]
    ranks: Int[np.ndarray, " users"] | None = None
    users: Int[np.ndarray, " users"] | None = None
    protocol: str = HONEST
    held_out: int = 2


@dataclasses.dataclass(frozen=True)
class JobResult:
    """A job with what it left.

    Attributes:
      job: of the grid.
      status: `finished`, `failed`, `begun` or `not run`.
      message: why it failed.
      system: the system of the job itself.
      seconds: of training, None if unknown.
      measurements: of all systems.
    """

    job: Job
    status: str
    message: str = ""
    system: str = OURS
    seconds: float | None = None
    measurements: tuple[Measurement, ...] = ()

    def find(self, system: str, split: str) -> Measurement | None:
        """Returns the measurement of a system on a split, if there is one."""
        return next((one for one in self.measurements if (one.system, one.split) == (system, split)), None)


def read_job(job: Job) -> JobResult:
    """Returns what a job left; one that failed, is damaged or is not as the grid has it has no measurements."""
    if job.failure.is_file():
        return JobResult(job, "failed", message=job.failure.read_text(encoding="utf-8").strip())
    if not job.result.is_file():
        return JobResult(job, "begun" if job.folder.exists() else "not run")
    try:
        job.check()
        result = job.read_result()
    except TokenRecError as error:
        return JobResult(job, "failed", message=str(error))
    if job.cell.kind == "holdout":
        return JobResult(job, "finished", seconds=_seconds(job.folder), measurements=_held_out(result))
    system, measurements = read_measurements(job.folder)
    return JobResult(job, "finished", system=system, seconds=_seconds(job.folder), measurements=measurements)


def read_measurements(folder: pathlib.Path) -> tuple[str, tuple[Measurement, ...]]:
    """Returns the own system of a finished run, and what it and all others of its result.json measured."""
    result = Workdir(folder).result()
    try:
        ranks = Workdir(folder).ranks()
    except ConfigError:
        # A run from before ranks were kept has means all the same.
        ranks = {}
    system = result.get("system", OURS)
    systems = {system: result} | result.get("baselines", {})
    return system, tuple(
        Measurement(
            system=name,
            split=str(split),
            metrics=of_system[str(split)],
            ranks=ranks.get(f"{name}/{split}"),
            users=ranks.get(f"users/{split}"),
            protocol=result.get("protocol", HONEST),
            held_out=result.get("held_out", 2),
        )
        for name, of_system in systems.items()
        for split in Split
        if str(split) in of_system
    )


def notices(measurements: Iterable[Measurement]) -> list[str]:
    """Returns what must be said where these measurements are shown, each once."""
    found = [(PROTOCOL_NOTICES[one.protocol], HELD_OUT_NOTICES[one.held_out]) for one in measurements]
    return [notice for notice in dict.fromkeys(itertools.chain(*found)) if notice]


def _held_out(result: dict[str, Any]) -> tuple[Measurement, ...]:
    """Returns one measurement for each group of holdout.json; its "split" says who: `users/held_out`."""
    return tuple(
        Measurement(OURS, f"{side}/{group}", metrics=values, protocol=result.get("protocol", HONEST))
        for side, groups in result.items()
        if isinstance(groups, dict)
        for group, values in groups.items()
        if isinstance(values, dict)
    )


def _seconds(folder: pathlib.Path) -> float | None:
    run = Workdir(folder)
    seconds = run.result().get("seconds") if run.finished else None
    return sum(seconds.values()) if seconds else None
