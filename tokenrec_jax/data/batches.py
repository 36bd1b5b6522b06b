"""Training batches as grain pipelines: step number in, numpy arrays out, position resumable. Read `train_batches`.

Every batch is a pure function of (seed, step), built by vectorised numpy from the in-memory rows, so that no worker
has a state of its own. Evaluation batches are in `evaluation/protocols.py`.
"""

from collections.abc import Callable

import grain
import numpy as np

from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.sampling import EpochOrder, NegativeSampler
from tokenrec_jax.types import PADDING, DataError, HistoryBatch, PairBatch, RowBatch, Stage, TrainBatch


def train_batches(
    interactions: Interactions, *, config: Config, stage: Stage, prefetch: int = 2
) -> grain.DatasetIterator[TrainBatch]:
    """Returns the batches of one stage, one a step; its `get_state` and `set_state` save and restore the position.

    Args:
      interactions: training interactions only.
      config: sizes, seed and objective.
      stage: decides which parts of a `TrainBatch` are filled.
      prefetch: batches made ahead in background threads.
    """
    settings = config.stage(stage)
    # Stages differ in their random numbers even where they draw the same kind of batch.
    seed = config.seed * len(Stage) + list(Stage).index(stage)
    parts: dict[str, Callable[[int], object]] = {}
    if stage in (Stage.COLLABORATIVE, Stage.JOINT):
        size = config.stage(Stage.COLLABORATIVE).batch_size
        pairwise = config.lightgcn.loss == "bpr"
        parts["pairs"] = PairBatches(interactions, batch_size=size, seed=seed, with_negatives=pairwise)
    if stage in (Stage.TOKENIZER, Stage.JOINT):
        size = config.stage(Stage.TOKENIZER).batch_size
        parts["rows"] = RowBatches(interactions, batch_size=size, seed=seed)
    if stage in (Stage.LLM, Stage.JOINT):
        parts["histories"] = HistoryBatches(interactions, config=config, batch_size=settings.batch_size, seed=seed)

    def make(step: int) -> TrainBatch:
        return TrainBatch(**{name: part(step) for name, part in parts.items()})  # pyright: ignore[reportArgumentType]

    dataset = grain.MapDataset.range(settings.steps).map(make)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return iter(dataset.to_iter_dataset(options))


class PairBatches:
    """Interactions in random order, each with a fresh negative unless nothing reads one."""

    def __init__(self, interactions: Interactions, *, batch_size: int, seed: int, with_negatives: bool = True):
        """Prepares batches of `batch_size` interactions; without negatives, the positives stand in their place."""
        self._users = np.repeat(np.arange(interactions.num_users, dtype=np.int32), np.diff(interactions.indptr))
        self._items = interactions.items
        self._order = EpochOrder(len(self._items), seed=seed)
        self._negatives = NegativeSampler(interactions) if with_negatives else None
        self._batch_size = batch_size
        self._seed = seed

    def __call__(self, step: int) -> PairBatch:
        """Returns the batch of a step."""
        rows = self._order.slice(step * self._batch_size, self._batch_size)
        users, positive = self._users[rows], self._items[rows]
        negative = positive
        if self._negatives is not None:
            negative = self._negatives.sample(users, rng=np.random.default_rng((self._seed, step, 1)))
        return PairBatch(user=users, positive=positive, negative=negative)


class RowBatches:
    """Users and items in random order, independently."""

    def __init__(self, interactions: Interactions, *, batch_size: int, seed: int):
        """Prepares batches of `batch_size` users and as many items."""
        self._users = EpochOrder(interactions.num_users, seed=seed)
        self._items = EpochOrder(interactions.num_items, seed=seed + 1_000_003)
        self._batch_size = batch_size

    def __call__(self, step: int) -> RowBatch:
        """Returns the batch of a step."""
        start = step * self._batch_size
        return RowBatch(
            user=self._users.slice(start, self._batch_size).astype(np.int32),
            item=self._items.slice(start, self._batch_size).astype(np.int32),
        )


class HistoryBatches:
    """Histories with the items that follow, grouped by padded length so that few shapes exist.

    An example ends before one target (objective "prompt") or is a window of positions (objective "dense"). An epoch
    holds every target of every user exactly once, up to the wrap-around of a group's last batch; the groups' batches
    come in random order.
    """

    def __init__(self, interactions: Interactions, *, config: Config, batch_size: int, seed: int):
        """Lists the examples of each bucket.

        Raises:
          DataError: no user has two training interactions.
        """
        self._interactions = interactions
        self._dense = config.llm.objective == "dense"
        self._num_negatives = config.loss.num_negatives if config.loss.kind == "pairwise" else 0
        self._negatives = NegativeSampler(interactions) if self._num_negatives else None
        self._batch_size = batch_size
        self._seed = seed
        users, ends = _example_ends(interactions, window=config.data.max_history if self._dense else 1)
        if not len(users):
            raise DataError(f"{interactions.name}: no user has two training interactions; at least one must")
        sizes = config.data.history_buckets if config.data.bucket_batches else ()
        sizes = sizes or (config.data.max_history,)
        bucket = np.searchsorted(sizes, np.minimum(ends, sizes[-1]))
        self._groups = []
        for index, size in enumerate(sizes):
            mine = np.flatnonzero(bucket == index)
            if len(mine):
                order = EpochOrder(len(mine), seed=seed * 1009 + index)
                self._groups.append((size, users[mine], ends[mine], order))
        counts = [-(-len(users) // batch_size) for _, users, _, _ in self._groups]
        self._schedule = np.repeat(np.arange(len(counts)), counts)
        self._counts = counts
        self._schedule_order = EpochOrder(len(self._schedule), seed=seed)

    def __call__(self, step: int) -> HistoryBatch:
        """Returns the batch of a step."""
        epoch, offset = divmod(step, len(self._schedule))
        slots = self._schedule_order.slice(epoch * len(self._schedule), offset + 1)
        group = int(self._schedule[slots[-1]])
        turn = epoch * self._counts[group] + int(np.sum(self._schedule[slots[:-1]] == group))
        size, users, ends, order = self._groups[group]
        rows = order.slice(turn * self._batch_size, self._batch_size)
        user, end = users[rows], ends[rows]

        start = np.maximum(end - size, 0)
        position = start[:, None] + np.arange(size)
        valid = position < end[:, None]
        at = self._interactions.indptr[user][:, None] + np.where(valid, position, 0)
        items = self._interactions.items
        history = np.where(valid, items[at], PADDING).astype(np.int32)
        if self._dense:
            target = np.where(valid, items[at + 1], PADDING).astype(np.int32)
        else:
            target = items[self._interactions.indptr[user] + end][:, None].astype(np.int32)
        shape = (*target.shape, self._num_negatives)
        negative = np.zeros(shape, np.int32)
        if self._negatives is not None:
            rng = np.random.default_rng((self._seed, step, 2))
            negative = self._negatives.sample(np.broadcast_to(user.reshape((-1, 1, 1)), shape), rng=rng)
        return HistoryBatch(user=user, history=history, target=target, negative=negative)


def _example_ends(interactions: Interactions, *, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (user, end) of every example: its history stops before `end`, the item at `end` is the last target.

    Ends are n - 1, n - 1 - window, ... down to 1, where n is the number of the user's training items, so that
    windows of targets tile the history.
    """
    lengths = np.diff(interactions.indptr)
    counts = np.maximum(-(-(lengths - 1) // window), 0)
    users = np.repeat(np.arange(interactions.num_users), counts)
    turn = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = lengths[users] - 1 - turn * window
    return users.astype(np.int32), ends
