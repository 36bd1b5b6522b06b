"""The user-item graph of the training interactions as a padded `jraph.GraphsTuple`. Read `build_graph`.

The encoder that runs on it is `models/lightgcn.py`.
"""

from typing import Any

import jraph
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.numerics import round_up
from tokenrec_jax.sharding import ROW_AXES, replicated

#: User and item tables are padded to a multiple of this many rows, so that they can be sharded and can grow.
ROW_MULTIPLE = 128


def padded_rows(count: int) -> int:
    """Returns the number of table rows for `count` users or items: at least one row of padding stays free."""
    return round_up(count + 1, multiple=ROW_MULTIPLE)


def build_graph(interactions: Interactions, *, shards: int = 1) -> jraph.GraphsTuple:
    """Returns the graph of a data set's interactions with padded tables; see `arrange_graph`."""
    return arrange_graph(
        np.repeat(np.arange(interactions.num_users), np.diff(interactions.indptr)),
        interactions.items.astype(np.int64),
        user_rows=padded_rows(interactions.num_users),
        item_rows=padded_rows(interactions.num_items),
        shards=shards,
    )


def arrange_graph(
    users: Int[np.ndarray, " interactions"],
    items: Int[np.ndarray, " interactions"],
    *,
    user_rows: int,
    item_rows: int,
    shards: int = 1,
    length: int = 0,
    headroom: float = 0.0,
) -> jraph.GraphsTuple:
    """Returns both directions of every interaction with the symmetric normalisation of LightGCN.

    Padded users and padded items are cut into `shards` ranges; a shard's nodes are its users, then its items, and
    senders and receivers are numbered within their shards. An edge lies with the shard of its receiver, in one of
    `shards` groups by how many shards further its sender is. All groups are padded to one length, a multiple of
    `ROW_MULTIPLE`, and stand one after another along a single axis of shards * shards * length edges, which therefore
    can be cut over devices like the tables. With one shard this is the plain graph.

    Within a group edges are sorted by receiver, and for a receiver as the interactions are; `edges` holds
    1 / sqrt(degree(sender) * degree(receiver)). Padded edges join the last node of a shard to that of another with
    weight 0.

    Source: LightGCN (He et al., 2020), eq. 3.

    Args:
      users: user of each interaction; no interaction twice.
      items: its item.
      user_rows: rows of the padded user table; at least one is padding.
      item_rows: the same for items.
      shards: parts of the tables; divides their rows.
      length: of a group, where it is enough.
      headroom: share of a group to leave free where `length` is not enough.
    """
    degrees = np.bincount(users), np.bincount(items)
    weights = (1.0 / np.sqrt(degrees[0][users] * degrees[1][items])).astype(np.float32)

    users_each, items_each = user_rows // shards, item_rows // shards
    user_shard, user_node = np.divmod(users, users_each)
    item_shard, item_node = np.divmod(items, items_each)
    item_node += users_each
    nodes_each = users_each + items_each

    receiver_shard, sender_shard = np.concatenate([item_shard, user_shard]), np.concatenate([user_shard, item_shard])
    receivers, senders = np.concatenate([item_node, user_node]), np.concatenate([user_node, item_node])
    group = receiver_shard * shards + (sender_shard - receiver_shard) % shards
    order = np.argsort(group * nodes_each + receivers, kind="stable")
    counts = np.bincount(group, minlength=shards * shards)
    if counts.max() > length:
        length = round_up(int(counts.max() * (1 + headroom)), multiple=ROW_MULTIPLE)
    # Where each edge stands: its group, then its turn in the group.
    place = group[order] * length + np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)

    # Any: jraph annotates its fields as JAX arrays, and NumPy's are as good until they are put on a device.
    def arrange(values: np.ndarray, fill: int, dtype: type) -> Any:
        arranged = np.full(shards * shards * length, fill, dtype)
        arranged[place] = values[order]
        return arranged

    def count(value: int) -> Any:
        return np.array([value], np.int32)

    return jraph.GraphsTuple(
        nodes=None,
        edges=arrange(np.concatenate([weights, weights]), 0, np.float32),
        senders=arrange(senders, nodes_each - 1, np.int32),
        receivers=arrange(receivers, nodes_each - 1, np.int32),
        globals=None,
        n_node=count(user_rows + item_rows),
        n_edge=count(shards * shards * length),
    )


def graph_shardings(mesh: Mesh) -> jraph.GraphsTuple:
    """Returns where the parts of a graph lie that was built with as many shards as `ROW_AXES` has devices."""
    edges, everywhere = NamedSharding(mesh, PartitionSpec(ROW_AXES)), replicated(mesh)
    parts: Any = {"edges": edges, "senders": edges, "receivers": edges, "n_node": everywhere, "n_edge": everywhere}
    return jraph.GraphsTuple(nodes=None, globals=None, **parts)


def inverse_sqrt_degree(interactions: Interactions) -> Float[np.ndarray, " items"]:
    """Returns 1 / sqrt(number of users) of each padded item row; items that nobody has count as one user's."""
    counts = np.bincount(interactions.items, minlength=padded_rows(interactions.num_items))
    return (1.0 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)
