"""Gradients of a batch as the mean over its parts, one part in memory at a time. Read `accumulate`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from tokenrec_jax.types import PADDING, TrainBatch


def accumulate(
    differentiate: Callable[..., Any],
    buffers: Any,
    batch: TrainBatch,
    *,
    parts: int,
    key: Key[Array, ""],
    like: Any,
) -> tuple[Array, Any, Any, Any]:
    """Returns (total loss, loss, buffers, gradients) of a batch with histories, as if it had been read at once.

    A part weighs as much as it has targets, so that their mean is the mean over all targets of the batch. What the
    revival of codes looks at is that of the last part.

    Args:
      differentiate: (buffers, part, key, weight of its retrieval loss) -> ((total, (loss, buffers)), gradients).
      buffers: of the model; parts hand them on.
      batch: rows of a part are spread over the batch, so that a part lies on the devices as the batch does.
      parts: how many; divides the rows of everything in the batch.
      key: each part gets its own.
      like: tree of the gradients.
    """
    cut = jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    targets = jnp.sum(cut.histories.target != PADDING, axis=(1, 2))
    weights = parts * targets / jnp.maximum(jnp.sum(targets), 1)

    def add(carry, part):
        gradients, buffers = carry
        (total, (loss, buffers)), new = differentiate(buffers, *part)
        return (jax.tree.map(jnp.add, gradients, new), buffers), (total, loss)

    start = (jax.tree.map(jnp.zeros_like, like), buffers)
    (gradients, buffers), (totals, losses) = jax.lax.scan(add, start, (cut, jax.random.split(key, parts), weights))
    gradients = jax.tree.map(lambda x: x / parts, gradients)
    last = {name: jax.tree.map(lambda x: x[-1], getattr(losses, name)) for name in ("user_codes", "item_codes")}
    terms = jax.tree.map(jnp.mean, losses.terms)
    loss = dataclasses.replace(losses, total=jnp.mean(totals), terms=terms, **last)
    return loss.total, loss, buffers, gradients
