"""How sure a figure is: intervals of a mean over users, and paired differences of two systems on the same users.

Read `paired_difference` first. What varies is who the users are; that another seed would have trained another model is
told by the spread over seeds, not here. To compare means over seeds, average each user's values over the seeds first.

Values of users are few (a hit is 0 or 1, a gain at 10 one of eleven numbers), so draws are made of how often each
distinct value occurs, which has the very distribution of drawing users one by one at a fraction of the work.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from tokenrec_jax.evaluation import ranking
from tokenrec_jax.types import ConfigError, DataError

#: Random numbers that are alive at once: 32 MB of them, whatever the number of users and draws.
_BLOCK = 1 << 22


@dataclasses.dataclass(frozen=True)
class Interval:
    """Ends of a confidence interval."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """How much better one system is than another on the same users.

    Attributes:
      mean: of the differences, first minus second.
      low: lower end of its bootstrap interval.
      high: upper end.
      p_value: two-sided, of a sign-flip test: how often a difference as large occurs if it is chance which of the two
        values of a user belongs to which system. At least 1 / (draws + 1).
    """

    mean: float
    low: float
    high: float
    p_value: float


def per_user(ranks: Int[np.ndarray, " users"], metric: str) -> Float[np.ndarray, " users"]:
    """Returns each user's value of a metric, whose mean over users is what result.json reports.

    Args:
      ranks: 1-based ranks, one a user.
      metric: such as `hr@10`, `ndcg@10` or `mrr@20`.

    Raises:
      ConfigError: there is no such metric.
      DataError: a rank is below 1.
    """
    name, _, cutoff = metric.partition("@")
    if name not in ranking.GAINS or not cutoff.isdecimal() or int(cutoff) < 1:
        raise ConfigError(f"metric: got {metric!r}; allowed are {', '.join(ranking.GAINS)} with a cutoff, as in hr@10")
    if np.any(ranks < 1):
        raise DataError(f"ranks: got {ranks.min()}; allowed are 1 and more")
    return ranking.gains(ranks, name=name, cutoff=int(cutoff))


def interval(values: Float[np.ndarray, " users"], *, seed: int, level: float = 0.95, draws: int = 2000) -> Interval:
    """Returns the percentile bootstrap interval of the mean of the values when the users are drawn again.

    Args:
      values: one a user.
      seed: of the draws; equal arguments give equal results.
      level: share of the draws that lie inside.
      draws: how often the users are drawn.

    Raises:
      ConfigError: `level` is not between 0 and 1, or `draws` is below 1.
      DataError: there are no values, or one is not a number.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, §13.3.
    """
    _check(values, level=level, draws=draws)
    distinct, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng((seed, 8))
    share = counts / len(values)
    means = [rng.multinomial(len(values), share, size=size) @ distinct for size in _blocks(draws, len(distinct))]
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.concatenate(means) / len(values), tails)
    return Interval(low=float(low), high=float(high))


def paired_difference(
    a: Float[np.ndarray, " users"],
    b: Float[np.ndarray, " users_of_b"],
    *,
    seed: int,
    level: float = 0.95,
    draws: int = 2000,
) -> PairedDifference:
    """Returns by how much the mean of `a` exceeds that of `b`, and whether that may be chance.

    Args:
      a: values of one system.
      b: values of another, the same users in the same order.
      seed: of the draws; equal arguments give equal results.
      level: of the interval.
      draws: of the bootstrap, and of the test.

    Raises:
      ConfigError: as for `interval`.
      DataError: the lengths differ, there are no values, or one is not a number.

    Source: Smucker, Allan and Carterette (2007), A Comparison of Statistical Significance Tests for Information
      Retrieval Evaluation: the randomization test.
    """
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} values; one of each system for the same users is needed")
    difference = np.asarray(a, np.float64) - b
    bounds = interval(difference, seed=seed, level=level, draws=draws)
    size, counts = np.unique(np.abs(difference[difference != 0]), return_counts=True)
    rng = np.random.default_rng((seed, 9))
    # Sums that are equal but for the order of their terms count as reached.
    reached = np.abs(difference.sum()) * (1 - 1e-9)
    extreme = 0
    for block in _blocks(draws, len(size)):
        flipped = 2 * rng.binomial(counts, 0.5, size=(block, len(size))) - counts[None, :]
        extreme += int(np.sum(np.abs(flipped @ size) >= reached))
    return PairedDifference(
        mean=float(difference.mean()), low=bounds.low, high=bounds.high, p_value=(extreme + 1) / (draws + 1)
    )


def _check(values: Float[np.ndarray, " users"], *, level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level}; allowed is above 0 and below 1")
    if draws < 1:
        raise ConfigError(f"draws: got {draws}; allowed is 1 or more")
    if not len(values) or not np.isfinite(values).all():
        raise DataError("values: none, or one is not a number; one number a user is needed")


def _blocks(draws: int, width: int) -> list[int]:
    """Returns how many draws of `width` numbers to make at a time, so that few are alive at once."""
    each = max(1, _BLOCK // max(width, 1))
    return [min(each, draws - start) for start in range(0, draws, each)]
