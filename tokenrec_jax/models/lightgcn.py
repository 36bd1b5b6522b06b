"""LightGCN: user and item tables smoothed over the interaction graph. Read `LightGCN`.

The graph is built in `data/graph.py`; the pairwise loss is in `training/losses.py`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import jraph
from flax import nnx
from jaxtyping import Array, Float

from tokenrec_jax.config import LightGCNConfig
from tokenrec_jax.partitioned import ROWS, over_devices, partitions
from tokenrec_jax.sharding import ROW_AXES


@dataclasses.dataclass(frozen=True)
class LightGCNOutput:
    """Collaborative embeddings: the mean over layers 0 .. num_layers, unnormalised."""

    users: Float[Array, "users emb"]
    items: Float[Array, "items emb"]


class LightGCN(nnx.Module):
    """Layer-0 tables of users and items, and their propagation.

    With `num_layers` 0 this is plain matrix factorisation.

    Source: LightGCN (He et al., 2020), eq. 3, 4 and 7.
    Differs: TokenRec's reference code quantises and retrieves with layer 0; here every consumer gets the mean of all
    layers.
    """

    def __init__(self, config: LightGCNConfig, *, num_users: int, num_items: int, rngs: nnx.Rngs):
        """Draws tables of `num_users` and `num_items` (padded) rows from N(0, init_std)."""
        init = nnx.initializers.normal(config.init_std)
        self.user_embedding = nnx.Param(init(rngs.params(), (num_users, config.embedding_dim)))
        self.item_embedding = nnx.Param(init(rngs.params(), (num_items, config.embedding_dim)))
        self.num_layers = config.num_layers

    def __call__(self, graph: jraph.GraphsTuple) -> LightGCNOutput:
        """Returns the collaborative embeddings of all (padded) users and items."""
        with jax.named_scope("lightgcn"):
            users, items = self.user_embedding[...], self.item_embedding[...]
            totals = layer = users, items
            for _ in range(self.num_layers):
                layer = propagate(*layer, graph)
                totals = totals[0] + layer[0], totals[1] + layer[1]
            return LightGCNOutput(users=totals[0] / (self.num_layers + 1), items=totals[1] / (self.num_layers + 1))


@jax.custom_vjp
def propagate(
    users: Float[Array, "users emb"], items: Float[Array, "items emb"], graph: jraph.GraphsTuple
) -> tuple[Float[Array, "users emb"], Float[Array, "items emb"]]:
    """Returns one step of weighted neighbour sums for users and for items.

    The weighted adjacency is symmetric, so the gradient is the same sum again. Saying so keeps the sorted receivers in
    the backward pass too, where the automatic transpose would scatter along unsorted senders.

    Where the tables are cut over devices, each device's rows go once around the ring of devices, and each adds what the
    visiting rows send to its own: no device ever holds more than two parts.
    """
    mesh = partitions()
    if mesh is None:
        return _sum_around(users, items, graph.edges, graph.senders, graph.receivers, shards=1)
    shards = math.prod(mesh.shape[axis] for axis in ROW_AXES)
    local = functools.partial(_sum_around, shards=shards)
    parts = users, items, graph.edges, graph.senders, graph.receivers
    return over_devices(local, mesh, in_specs=(ROWS,) * len(parts), out_specs=(ROWS, ROWS))(*parts)


def _sum_around(users, items, weights, senders, receivers, *, shards: int):
    """Returns the sums for one part of users and items; `shards` groups of edges, see `build_graph`."""
    nodes = jnp.concatenate([users, items])
    edges = tuple(part.reshape(shards, -1) for part in (weights, senders, receivers))
    total = _neighbour_sums(nodes, *(part[0] for part in edges))
    if shards > 1:
        onward = [(device, (device - 1) % shards) for device in range(shards)]

        def visit(carry, group):
            visitors, total = carry
            visitors = jax.lax.ppermute(visitors, ROW_AXES, onward)
            return (visitors, total + _neighbour_sums(visitors, *group)), None

        (_, total), _ = jax.lax.scan(visit, (nodes, total), tuple(part[1:] for part in edges))
    return total[: users.shape[0]], total[users.shape[0] :]


def _neighbour_sums(nodes, weights, senders, receivers):
    messages = nodes[senders] * weights[:, None]
    return jraph.segment_sum(messages, receivers, nodes.shape[0], indices_are_sorted=True)


def _propagate_forward(users, items, graph):
    return propagate(users, items, graph), graph


def _propagate_backward(graph, gradients):
    return *propagate(*gradients, graph), None


propagate.defvjp(_propagate_forward, _propagate_backward)
