"""Means over seeds, intervals over users, paired differences: the rows of a grid's tables. Read `summarise`.

The spread over seeds says how much another training would differ, the interval how much other users would. Both the
interval and the difference are of each user's mean over the seeds.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from experiments.ablation.grid import Cell, Grid
from experiments.ablation.results import JobResult, Measurement
from tokenrec_jax.evaluation.statistics import Interval, PairedDifference, interval, paired_difference, per_user

#: What tables show.
METRICS = ("hr@10", "ndcg@10")
COVERAGE = "coverage@10"

#: Of all draws: the same runs give the same table.
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Summary:
    """A metric of one system over its seeds.

    Attributes:
      mean: over seeds.
      std: sample standard deviation over seeds; None with one seed.
      interval: bootstrap interval over users; None without ranks, or where seeds rank different users.
      difference: to the reference, on the seeds that both have; None for the reference and without ranks.
    """

    mean: float
    std: float | None = None
    interval: Interval | None = None
    difference: PairedDifference | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      cell: of the grid.
      label: its name, with the system for those that came along in its runs.
      own: whether the system is that of the cell.
      seeds: finished ones.
      problems: what other jobs of the cell are, such as "1 failed".
      metrics: by name; empty if nothing has finished.
      coverage: share of the catalogue that is recommended to anybody.
      minutes: of training a seed.
    """

    cell: Cell
    label: str
    own: bool
    seeds: tuple[int, ...]
    problems: str
    metrics: dict[str, Summary]
    coverage: float | None
    minutes: float | None


def summarise(grid: Grid, results: Sequence[JobResult], split: str) -> list[Row]:
    """Returns a row for each cell, then rows for the other systems of the reference's runs.

    Args:
      grid: of the jobs.
      results: of all its jobs.
      split: `valid` or `test`.
    """
    of_cell = {cell.name: [one for one in results if one.job.cell.name == cell.name] for cell in grid.cells}
    reference = of_cell.get(grid.reference, [])
    others = {one.system: one for result in reference for one in result.measurements}
    rows = []
    for cell in grid.cells:
        rows.append(_row(of_cell[cell.name], reference, "", split, label=cell.name))
        for system in grid.beside:
            rows.append(_row(of_cell[cell.name], reference, system, split, label=f"{system} in {cell.name}"))
    for system in others:
        if system not in grid.beside and system != reference[0].system:
            rows.append(_row(reference, reference, system, split, label=system))
    return [row for row in rows if row.metrics or row.own]


def _row(results: list[JobResult], reference: list[JobResult], system: str, split: str, *, label: str) -> Row:
    """Returns the row of a system of a cell's runs; of their own with `system` empty."""
    found = {
        result.job.seed: one for result in results if (one := result.find(system or result.system, split)) is not None
    }
    base = {result.job.seed: one for result in reference if (one := result.find(result.system, split)) is not None}
    if not system and results and reference and results[0].job.cell.name == reference[0].job.cell.name:
        base = {}
    minutes = [result.seconds / 60 for result in results if result.seconds is not None]
    coverage = [one.metrics[COVERAGE] for one in found.values() if COVERAGE in one.metrics]
    return Row(
        cell=results[0].job.cell,
        label=label,
        own=not system,
        seeds=tuple(found),
        problems="" if system else _problems(results),
        metrics={name: _summary(found, base, name) for name in METRICS} if found else {},
        coverage=float(np.mean(coverage)) if coverage else None,
        minutes=float(np.mean(minutes)) if minutes and not system else None,
    )


def _problems(results: list[JobResult]) -> str:
    states = [result.status for result in results]
    return ", ".join(f"{states.count(one)} {one}" for one in ("failed", "begun", "not run") if one in states)


def _summary(found: dict[int, Measurement], base: dict[int, Measurement], metric: str) -> Summary:
    values = [one.metrics[metric] for one in found.values()]
    both = [seed for seed in found if seed in base]
    ours, theirs = _user_means(found, both, metric), _user_means(base, both, metric)
    everyone = _user_means(found, list(found), metric)
    comparable = ours is not None and theirs is not None and _same_targets([found[both[0]], base[both[0]]])
    return Summary(
        mean=float(np.mean(values)),
        std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        interval=None if everyone is None else _interval(everyone.tobytes()),
        difference=_difference(ours.tobytes(), theirs.tobytes())
        if comparable and ours is not None and theirs is not None
        else None,
    )


def _user_means(found: dict[int, Measurement], seeds: Sequence[int], metric: str) -> Float[np.ndarray, " users"] | None:
    """Returns each user's mean over seeds, None where ranks are missing or seeds rank different users."""
    chosen = [found[seed] for seed in seeds]
    ranks = [one.ranks for one in chosen if one.ranks is not None]
    if not chosen or len(ranks) < len(chosen) or not _same_targets(chosen):
        return None
    return np.mean([per_user(of_seed, metric) for of_seed in ranks], axis=0)


def _same_targets(measurements: Sequence[Measurement]) -> bool:
    """Returns whether all rank the same users under the same protocol."""
    first = measurements[0]
    return all(
        one.protocol == first.protocol
        and one.users is not None
        and first.users is not None
        and np.array_equal(one.users, first.users)
        for one in measurements
    )


# Tables are written after every job, but only one row of them is new. Keyed by what goes in, so nothing can go stale.
@functools.lru_cache(maxsize=2048)
def _interval(values: bytes) -> Interval:
    return interval(np.frombuffer(values), seed=_SEED)


@functools.lru_cache(maxsize=2048)
def _difference(ours: bytes, theirs: bytes) -> PairedDifference:
    return paired_difference(np.frombuffer(ours), np.frombuffer(theirs), seed=_SEED)
