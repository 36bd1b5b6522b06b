"""The user-item graph of the training interactions as a padded `jraph.GraphsTuple`. Read `build_graph`.

The encoder that runs on it is `models/lightgcn.py`.
"""

from typing import Any

import jraph
import numpy as np
from jaxtyping import Float

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.numerics import round_up

#: User and item tables are padded to a multiple of this many rows, so that they can be sharded and can grow.
ROW_MULTIPLE = 128


def padded_rows(count: int) -> int:
    """Returns the number of table rows for `count` users or items: at least one row of padding stays free."""
    return round_up(count + 1, multiple=ROW_MULTIPLE)


def build_graph(interactions: Interactions) -> jraph.GraphsTuple:
    """Returns both directions of every interaction with the symmetric normalisation of LightGCN.

    Nodes are the padded users (0 .. padded users - 1), then the padded items. Edges are sorted by receiver; `edges`
    holds 1 / sqrt(degree(sender) * degree(receiver)). Padded edges join the last node, which is padding itself, to
    itself with weight 0, and bring the number of edges to a multiple of `ROW_MULTIPLE`.

    Source: LightGCN (He et al., 2020), eq. 3.
    """
    first_item = padded_rows(interactions.num_users)
    num_nodes = first_item + padded_rows(interactions.num_items)
    users = np.repeat(np.arange(interactions.num_users), np.diff(interactions.indptr))
    items = interactions.items.astype(np.int64) + first_item
    senders, receivers = np.concatenate([users, items]), np.concatenate([items, users])
    order = np.argsort(receivers, kind="stable")
    senders, receivers = senders[order], receivers[order]
    degree = np.bincount(receivers, minlength=num_nodes).astype(np.float32)
    weights = 1.0 / np.sqrt(degree[senders] * degree[receivers])
    padding = -len(senders) % ROW_MULTIPLE

    # Any: jraph annotates its fields as JAX arrays, and NumPy's are as good until they are put on a device.
    def pad(values: np.ndarray, fill: int, dtype: type) -> Any:
        return np.pad(values, (0, padding), constant_values=fill).astype(dtype)

    def count(value: int) -> Any:
        return np.array([value], np.int32)

    return jraph.GraphsTuple(
        nodes=None,
        edges=pad(weights, 0, np.float32),
        senders=pad(senders, num_nodes - 1, np.int32),
        receivers=pad(receivers, num_nodes - 1, np.int32),
        globals=None,
        n_node=count(num_nodes),
        n_edge=count(len(senders) + padding),
    )


def inverse_sqrt_degree(interactions: Interactions) -> Float[np.ndarray, " items"]:
    """Returns 1 / sqrt(number of users) of each padded item row; items that nobody has count as one user's."""
    counts = np.bincount(interactions.items, minlength=padded_rows(interactions.num_items))
    return (1.0 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)
