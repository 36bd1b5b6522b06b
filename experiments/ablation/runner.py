"""Runs the jobs of a grid one after another. Read `run_jobs`; the process of a job is in `child.py`."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

from absl import logging

from experiments.ablation.donors import choose_donor
from experiments.ablation.plan import Job
from tokenrec_jax.config import Config
from tokenrec_jax.types import TokenRecError

#: Takes the words of a command and the file for its output, returns the exit status.
RunCommand = Callable[[Sequence[str], pathlib.Path], int]


@dataclasses.dataclass
class Outcome:
    """What became of the jobs.

    Attributes:
      finished: those that have their result, now or from before.
      failed: those that ended without one.
      stopped: the one that a signal ended or kept from starting.
    """

    finished: list[Job] = dataclasses.field(default_factory=list)
    failed: list[Job] = dataclasses.field(default_factory=list)
    stopped: Job | None = None


def run_jobs(
    jobs: Sequence[Job],
    *,
    among: Sequence[Job],
    run: RunCommand,
    stopping: Callable[[], bool],
    report: Callable[[], None],
) -> Outcome:
    """Runs what has not finished; a job that fails is said in one line and the next one runs.

    What finished before is checked, wanted now or not: one table holds all of it.

    Args:
      jobs: in order.
      among: jobs of the directory, wanted now or not; stages of finished ones may be taken over.
      run: runs a command to its end.
      stopping: whether a signal came, after which nothing more is started.
      report: called after each job that ran.
    """
    outcome = Outcome()
    wanted = {job.folder for job in jobs}
    jobs = [*(job for job in among if job.folder not in wanted and job.result.is_file()), *jobs]
    to_run = sum(not job.result.is_file() for job in jobs)
    logging.info("%d jobs, %d of them finished before", len(jobs), len(jobs) - to_run)
    pace = _Pace(to_run)
    for number, job in enumerate(jobs, start=1):
        runs = not job.result.is_file()
        if runs and not stopping():
            logging.info("cell %d of %d: %s (%s)", number, len(jobs), job.name, pace)
        reason = "" if runs and stopping() else _attempt(job, among, run=run)
        if runs and stopping() and not job.result.is_file():
            outcome.stopped = job
            break
        job.failure.unlink(missing_ok=True)
        if reason:
            logging.error("%s failed: %s", job.name, reason)
            job.folder.parent.mkdir(parents=True, exist_ok=True)
            job.failure.write_text(reason + "\n", encoding="utf-8")
            outcome.failed.append(job)
        else:
            outcome.finished.append(job)
        if runs:
            pace.done += 1
            report()
    return outcome


def _attempt(job: Job, among: Sequence[Job], *, run: RunCommand) -> str:
    """Runs a job unless it has finished; returns why it failed, or nothing."""
    try:
        job.check()
    except TokenRecError as error:
        return str(error)
    if job.result.is_file():
        return ""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    before = job.log.stat().st_size if job.log.exists() else 0
    donor = choose_donor(job.config, _finished(among, job.seed)) if job.cell.kind == "train" else None
    status = run(job.command(donor), job.log)
    if job.result.is_file() and not status:
        return ""
    printed = job.log.read_bytes()[before:].decode(errors="replace") if job.log.exists() else ""
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{_last_word(printed) or how}; log: {job.log}"


def _finished(jobs: Sequence[Job], seed: int) -> dict[pathlib.Path, Config]:
    """Returns directory and config of each finished training with a seed that other runs can read."""
    finished = {}
    for job in jobs:
        if job.seed == seed and job.cell.kind == "train" and job.result.is_file():
            with contextlib.suppress(TokenRecError):
                job.check()
                if job.can_be_read:
                    finished[job.folder] = job.config
    return finished


def _last_word(printed: str) -> str:
    """Returns the last line that calls itself an error, or just the last."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


class _Pace:
    """Says how long it has taken, and how long the rest will at the pace of the jobs that ran so far."""

    def __init__(self, total: int):
        self.done = 0
        self._total = total
        self._started = time.monotonic()

    def __str__(self) -> str:
        passed = time.monotonic() - self._started
        if not self.done:
            return f"{self._total} to run"
        return f"{_minutes(passed)} so far, about {_minutes(passed / self.done * (self._total - self.done))} left"


def _minutes(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
