"""Vectors of users and items that a run was not trained with, from its frozen weights. Read `propagate_grown`.

Pure functions of arrays; the state they work on is in `tables.py`. Pairs are users, then items.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.models.lightgcn import propagate
from tokenrec_jax.types import PADDING


class Start(NamedTuple):
    """How a new node's layer-0 vector follows from its neighbours; see `start_vectors`.

    Attributes:
      centre: mean of the neighbours' vectors over all of the run's training interactions: of users' (which are items),
        of items'.
      scale: length of the step.
    """

    centre: tuple[Float[Array, " emb"], Float[Array, " emb"]]
    scale: tuple[Float[Array, ""], Float[Array, ""]]


class Propagated(NamedTuple):
    """Collaborative embeddings over a grown graph.

    Attributes:
      users, items: the mean over layers 0 .. num_layers.
      sent: what an item sends to its users: the sum of its layers 0 .. num_layers - 1.
    """

    users: Float[Array, "users emb"]
    items: Float[Array, "items emb"]
    sent: Float[Array, "items emb"]


Tables = tuple[Float[Array, "users emb"], Float[Array, "items emb"]]
Known = tuple[Bool[Array, " users"], Bool[Array, " items"]]


def start_vectors(
    total: Float[Array, "rows emb"], count: Float[Array, "rows 1"], *, centre: Float[Array, " emb"]
) -> Float[Array, "rows emb"]:
    """Returns what a layer-0 vector is proportional to: (sum of the neighbours' vectors - n * centre) / sqrt(n).

    Each interaction pulls towards the neighbour and pushes from the average one, as a step of the pairwise loss from
    zero does, whose negatives are drawn from everywhere. Without the push new vectors lie near the centre of all, where
    every query finds them.

    Args:
      total: sum of the vectors of the n neighbours that the run knows.
      count: n.
      centre: see `Start`.
    """
    return (total - count * centre[None]) * jax.lax.rsqrt(jnp.maximum(count, 1.0))


def fit_start(embedding: Tables, vectors: Tables, known: Known, graph: jraph.GraphsTuple) -> Start:
    """Returns the rule that comes closest, in least squares, to the layer-0 vectors that the run was trained to.

    Args as for `propagate_grown`; the graph is the run's own.
    """
    sums = _known_sums(vectors, known, graph)
    centre = tuple(jnp.sum(total, axis=0) / jnp.maximum(jnp.sum(count), 1.0) for total, count in sums)
    scale = []
    for (total, count), table, middle in zip(sums, embedding, centre, strict=True):
        step = jnp.where(count > 0, start_vectors(total, count, centre=middle), 0.0)
        scale.append(jnp.sum(step * table) / jnp.maximum(jnp.sum(step * step), 1e-12))
    return Start(centre=(centre[0], centre[1]), scale=(scale[0], scale[1]))


def propagate_grown(
    embedding: Tables, vectors: Tables, known: Known, start: Start, graph: jraph.GraphsTuple, *, num_layers: int
) -> Propagated:
    """Returns the run's graph encoder, weights frozen, on a graph with more users, items and interactions.

    A new user or item has no layer-0 vector; it starts as `start_vectors` says, from zero if the run knows none of its
    neighbours, so that only what they send speaks.

    Source: TokenRec §IV-D updates the graph's vectors with the new interactions and does not say where new ones start.
      Measured with `experiments/holdout.py`: from zero, or from the mean of the neighbours, a twentieth of the items
      takes a third to a half of all places in the users' top ten, and those seen in training fall by a quarter.

    Args:
      embedding: layer-0 tables; new rows are not read.
      vectors: the run's propagated vectors; new rows are not read.
      known: which rows the run was trained with.
      start: what `fit_start` returned.
      graph: all interactions, with tables of these sizes.
      num_layers: of the encoder.
    """
    layer = tuple(
        jnp.where(
            is_known[:, None], table, jnp.where(count > 0, start_vectors(total, count, centre=centre), 0.0) * scale
        )
        for (total, count), table, is_known, centre, scale in zip(
            _known_sums(vectors, known, graph), embedding, known, start.centre, start.scale, strict=True
        )
    )
    users, items = layer
    sent = jnp.zeros_like(items)
    for _ in range(num_layers):
        sent = sent + layer[1]
        layer = propagate(layer[0], layer[1], graph)
        users, items = users + layer[0], items + layer[1]
    return Propagated(users=users / (num_layers + 1), items=items / (num_layers + 1), sent=sent)


def session_vectors(
    history: Int[Array, "batch history"],
    sent: Float[Array, "items emb"],
    *,
    vectors: Float[Array, "items emb"],
    known: Bool[Array, " items"],
    start: Start,
    inverse_sqrt_degree: Float[Array, " items"],
    num_layers: int,
) -> Float[Array, "batch emb"]:
    """Returns the vectors that users with these histories would have, without changing the graph.

    Args:
      history: item ids, right-padded with `PADDING`.
      sent: what items send to their users, see `Propagated`.
      vectors: the run's own vectors of items.
      known: which items the run was trained with.
      start: what `fit_start` returned.
      inverse_sqrt_degree: of the items in the current graph.
      num_layers: of the encoder.
    """
    index = jnp.maximum(history, 0)
    real = history != PADDING
    is_known = real & known[index]
    total = jnp.sum(jnp.where(is_known[..., None], vectors[index], 0.0), axis=1)
    count = jnp.sum(is_known, axis=1, keepdims=True).astype(total.dtype)
    first = start.scale[0] * start_vectors(total, count, centre=start.centre[0])
    weight = jnp.where(real, inverse_sqrt_degree[index], 0.0)
    received = jnp.sum(sent[index] * weight[..., None], axis=1)
    length = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1).astype(total.dtype)
    return (first + received * jax.lax.rsqrt(length)) / (num_layers + 1)


def moved(
    run: Float[Array, "rows emb"],
    *,
    before: Float[Array, "rows emb"],
    after: Float[Array, "rows emb"],
    step: Float[Array, ""],
) -> Float[Array, "rows emb"]:
    """Returns the run's vectors, moved by what additions changed, in whole steps.

    What a far-away interaction changes is below half a step: such rows, and their codes, stay the run's own bit for
    bit. Rounding errors of the sums are below it too.

    Args:
      run: the run's own vectors, zero in new rows.
      before: propagated over the run's own graph, zero in new rows.
      after: propagated over the grown graph.
      step: the grid of the moves.
    """
    return run + jnp.round((after - before) / step) * step


def _known_sums(
    vectors: Tables, known: Known, graph: jraph.GraphsTuple
) -> tuple[tuple[Float[Array, "users emb"], Float[Array, "users 1"]], tuple[Float[Array, "items emb"], Array]]:
    """Returns for each side the sum of the vectors of the neighbours that the run knows, and how many there are."""
    # The count is the sum of a column of ones.
    counted = [
        jnp.where(is_known[:, None], jnp.pad(table, ((0, 0), (0, 1)), constant_values=1.0), 0.0)
        for table, is_known in zip(vectors, known, strict=True)
    ]
    users, items = propagate(counted[0], counted[1], graph._replace(edges=jnp.sign(jnp.asarray(graph.edges))))
    return (users[:, :-1], users[:, -1:]), (items[:, :-1], items[:, -1:])
