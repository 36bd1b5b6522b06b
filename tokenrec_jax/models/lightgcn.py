"""LightGCN: user and item tables smoothed over the interaction graph. Read `LightGCN`.

The graph is built in `data/graph.py`; the pairwise loss is in `training/losses.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jraph
from flax import nnx
from jaxtyping import Array, Float

from tokenrec_jax.config import LightGCNConfig


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
            layer = total = jnp.concatenate([users, items])
            for _ in range(self.num_layers):
                layer = propagate(layer, graph)
                total = total + layer
            mean = total / (self.num_layers + 1)
            return LightGCNOutput(users=mean[: users.shape[0]], items=mean[users.shape[0] :])


@jax.custom_vjp
def propagate(nodes: Float[Array, "nodes emb"], graph: jraph.GraphsTuple) -> Float[Array, "nodes emb"]:
    """Returns one step of weighted neighbour sums.

    The weighted adjacency is symmetric, so the gradient is the same sum again. Saying so keeps the sorted receivers in
    the backward pass too, where the automatic transpose would scatter along unsorted senders.
    """
    weights, senders, receivers = (jnp.asarray(part) for part in (graph.edges, graph.senders, graph.receivers))
    messages = nodes[senders] * weights[:, None]
    return jraph.segment_sum(messages, receivers, nodes.shape[0], indices_are_sorted=True)


def _propagate_forward(nodes, graph):
    return propagate(nodes, graph), graph


def _propagate_backward(graph, gradient):
    return propagate(gradient, graph), None


propagate.defvjp(_propagate_forward, _propagate_backward)
