"""The retrieval loss and its gradients against the whole matrix of logits, on targets of a data set.

The other side is what one would write with optax: all logits at once, positions without a target masked out of the
mean. Queries and items are random; which positions have a target is what decides how much there is to do.
"""

import copy
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging

from tokenrec_jax.config import Config
from tokenrec_jax.data.batches import train_batches
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.numerics import normalize
from tokenrec_jax.training.losses import masked_mean, softmax_retrieval
from tokenrec_jax.types import PADDING, Stage, TrainBatch

#: Timed batches, each by one side after the other, so that both see the same machine.
BATCHES = 10


def measure(config: Config) -> dict[str, Any]:
    """Returns seconds a batch and temporary bytes of both, the ratio of their times, and how far they agree."""
    config = copy.deepcopy(config)
    # One shape.
    config.data.history_buckets = ()
    training = load_interactions(config.data).without_last(2)
    batches = train_batches(training, config=config, stage=Stage.LLM)
    keys = jax.random.split(jax.random.key(config.seed))
    dim, num_items = config.lightgcn.embedding_dim, training.num_items
    items = normalize(jax.random.normal(keys[0], (num_items, dim)))
    first = _targets(next(batches))
    queries = normalize(jax.random.normal(keys[1], (*first.shape, dim))) / config.loss.temperature
    losses = {"ours": functools.partial(softmax_retrieval, num_items=num_items), "optax": _with_optax}
    programs = {
        name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(queries, items, target=first).compile()
        for name, loss in losses.items()
    }
    found = {name: jax.block_until_ready(run(queries, items, target=first)) for name, run in programs.items()}
    seconds = {name: [] for name in programs}
    supervised = []
    for number in range(BATCHES):
        target = _targets(next(batches))
        supervised.append(float(jnp.mean(target != PADDING)))
        for name, run in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(run(queries, items, target=target))
            seconds[name].append(time.perf_counter() - started)
        logging.info("batch %d of %d", number + 1, BATCHES)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    gaps = jax.tree.map(lambda ours, other: float(jnp.max(jnp.abs(ours - other))), found["ours"], found["optax"])
    return {
        "positions": first.size,
        "share_with_target": statistics.mean(supervised),
        "items": num_items,
        "seconds": medians,
        "ratio": medians["optax"] / medians["ours"],
        "temporary_bytes": {name: _temporary_bytes(run) for name, run in programs.items()},
        "largest_difference": max(jax.tree.leaves(gaps)),
    }


def _targets(batch: TrainBatch) -> jax.Array:
    assert batch.histories is not None
    return jax.device_put(batch.histories.target)


def _temporary_bytes(program: jax.stages.Compiled) -> int | None:
    """Returns the memory that a program needs beside arguments and results; None where the backend does not say."""
    found = program.memory_analysis()
    return None if found is None else found.temp_size_in_bytes


def _with_optax(queries, items, *, target):
    logits = queries @ items.T
    values = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(target, 0))
    return masked_mean(values, target != PADDING)
