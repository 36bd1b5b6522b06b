"""From hidden states to queries: the projection head, the fold-in of a history and the item space they meet in.

Read `QueryHead.queries`. Retrieval itself, which knows only vectors, is in `retrieval/`.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from tokenrec_jax.config import Config
from tokenrec_jax.models.llm.t5_layers import NO_DROPOUT, Dropout
from tokenrec_jax.numerics import normalize
from tokenrec_jax.partitioned import take_rows
from tokenrec_jax.types import PADDING


def fold_in(
    history: Int[Array, "batch history"],
    *,
    item_vectors: Float[Array, "items emb"],
    inverse_sqrt_degree: Float[Array, " items"],
    lag_weights: Float[Array, " lags"] | None = None,
    residual: Float[Array, "items emb"] | None = None,
    dropout: Dropout = NO_DROPOUT,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch history emb"]:
    """Returns the user vector after each item of a history: one step of graph propagation from the items alone.

    Entry t is (sum over j <= t of z_j / sqrt(degree_j)) / sqrt(t + 1). Padding adds nothing, so that the last entry of
    a row is that of its whole history up to the factor of its padded length.

    Source: the propagation rule of LightGCN (He et al., 2020, eq. 3) for a user outside of the graph.
    Differs: with `lag_weights` an item counts by how long ago it was, with `residual` it sends more than its vector.

    Args:
      history: item ids, oldest first, right-padded with `PADDING`.
      item_vectors: collaborative embeddings.
      inverse_sqrt_degree: of the items.
      lag_weights: weight of the newest item, of the one before it, and so on, as long as a history at least.
      residual: what each item sends besides z / sqrt(degree).
      dropout: of the elements of what each item sends.
      key: dropout key, or None for no dropout.
    """
    index = jnp.maximum(history, 0)
    weight = jnp.where(history == PADDING, 0.0, take_rows(inverse_sqrt_degree, index))
    sent = take_rows(item_vectors, index) * weight[..., None]
    if residual is not None:
        sent = sent + jnp.where((history == PADDING)[..., None], 0.0, take_rows(residual, index))
    sent = dropout(sent, key=key)
    if lag_weights is None:
        total = jnp.cumsum(sent, axis=1)
    else:
        place = jnp.arange(history.shape[1])
        lag = place[:, None] - place[None]
        total = jnp.einsum("ts,bsd->btd", jnp.where(lag < 0, 0.0, lag_weights[jnp.maximum(lag, 0)]), sent)
    count = jnp.maximum(jnp.cumsum(history != PADDING, axis=1), 1)
    return total * jax.lax.rsqrt(count.astype(total.dtype))[..., None]


def close_up(
    history: Int[Array, "batch history"],
) -> tuple[Int[Array, "batch history"], Int[Array, "batch history"]]:
    """Returns histories without the padding between their items, and where in them the newest item at each place is.

    Items that are hidden in training leave no gap: what is left is as old as if they had never been, so that the
    weights of ages that are learned are right for histories of which nothing is hidden.

    Args:
      history: item ids, oldest first, with `PADDING` wherever there is none.

    Returns:
      The same items, right-padded, and places in them, -1 where nothing is left so far.
    """
    shown = history != PADDING
    order = jnp.argsort(~shown, axis=1, stable=True)
    return jnp.take_along_axis(history, order, axis=1), jnp.cumsum(shown, axis=1, dtype=jnp.int32) - 1


def take_newest(
    folded: Float[Array, "batch history emb"], newest: Int[Array, "batch history"]
) -> Float[Array, "batch history emb"]:
    """Returns the fold-in of a history that was closed up at each place of the history as it was; zeros at -1."""
    taken = jnp.take_along_axis(folded, jnp.maximum(newest, 0)[..., None], axis=1)
    return jnp.where((newest < 0)[..., None], 0.0, taken)


class QueryHead(nnx.Module):
    """Projects hidden states into the item space and, by config, lets both sides start from the graph.

    Differs: TokenRec's query is the projection alone and its item vectors are frozen. With `llm.fold_in` the query is
    projection + scale * unit(fold-in), still one vector, or by `llm.projection` the unit vector of that; with
    `llm.item_residual` and `llm.item_features` an item is unit(length * unit(z) + learned residual + learned vectors of
    its values).
    """

    def __init__(self, config: Config, *, hidden_size: int, num_items: int, rngs: nnx.Rngs):
        """Makes a projection hidden_size -> llm.projection_dim -> lightgcn.embedding_dim, or one without the middle."""
        dim, inner = config.lightgcn.embedding_dim, config.llm.projection_dim
        if inner:
            self.hidden = nnx.Linear(hidden_size, inner, rngs=rngs)
        self.free = config.llm.fold_in and config.llm.projection != "unit"
        self.cosine = config.llm.projection == "cosine"
        # A new model adds nothing to the fold-in.
        start = nnx.initializers.zeros if self.free else nnx.initializers.lecun_normal()
        self.output = nnx.Linear(inner or hidden_size, dim, kernel_init=start, rngs=rngs)
        self.temperature = config.loss.temperature
        self.item_vector_length = config.llm.item_vector_length
        if config.llm.fold_in:
            scale = config.llm.fold_in_scale * (self.temperature if self.cosine else 1.0)
            self.fold_in_scale = nnx.Param(jnp.array(scale, jnp.float32))
            self.fold_in_dropout = Dropout(config.llm.fold_in_dropout, each_position=True)
            lag = jnp.arange(1, config.data.max_history + 1, dtype=jnp.float32)
            self.lag_weights = nnx.Param(lag**-config.llm.fold_in_recency)
            if config.llm.fold_in_residual:
                self.sent_residual = nnx.Param(jnp.zeros((num_items, dim)))
        if config.llm.item_residual:
            self.item_residual = nnx.Param(jnp.zeros((num_items, dim)))
        if config.llm.item_vectors_at_input:
            self.input = nnx.Linear(dim, hidden_size, use_bias=False, rngs=rngs)
            self.input_length = math.sqrt(dim) if config.llm.small_start else 1.0

    def fold_in(
        self,
        history: Int[Array, "batch history"],
        *,
        item_vectors: Float[Array, "items emb"],
        inverse_sqrt_degree: Float[Array, " items"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch history emb"]:
        """Returns the fold-in that queries start from; see the function `fold_in`."""
        return fold_in(
            history,
            item_vectors=item_vectors,
            inverse_sqrt_degree=inverse_sqrt_degree,
            lag_weights=self.lag_weights[...],
            residual=self.sent_residual[...] if hasattr(self, "sent_residual") else None,
            dropout=self.fold_in_dropout,
            key=key,
        )

    def read(self, space: Float[Array, "*batch emb"]) -> Float[Array, "*batch model"]:
        """Returns vectors of the item space as the language model reads them."""
        return self.input(self.input_length * space)

    def item_space(
        self, item_vectors: Float[Array, "items emb"], features: Float[Array, "items emb"] | None = None
    ) -> Float[Array, "items emb"]:
        """Returns the unit vectors that queries are matched against.

        Args:
          item_vectors: collaborative embeddings.
          features: what is known of the items besides.
        """
        space = self.item_vector_length * normalize(item_vectors)
        if hasattr(self, "item_residual"):
            space = space + self.item_residual[...]
        if features is not None:
            space = space + features
        return normalize(space)

    def queries(
        self, hidden: Float[Array, "batch position model"], folded: Float[Array, "batch position emb"] | None
    ) -> Float[Array, "batch position emb"]:
        """Returns queries whose dot product with `item_space` is the logit of an item.

        Args:
          hidden: final hidden state at each supervised position.
          folded: fold-in of the history up to each of them; None without `llm.fold_in`.
        """
        with jax.named_scope("query_head"):
            hidden = hidden.astype(jnp.float32)
            projected = self.output(nnx.gelu(self.hidden(hidden)) if hasattr(self, "hidden") else hidden)
            query = projected if self.free else normalize(projected) / self.temperature
            if folded is not None:
                query = query + self.fold_in_scale[...] * normalize(folded)
            return normalize(query) / self.temperature if self.free and self.cosine else query
