"""SASRec: a causal transformer over item ids, the sequential recommender that others are measured against.

Read `SASRec.queries`: the state after each history item is a vector whose dot product with the vector of an item is the
item's logit. Nothing of the graph, of codes or of a language model is in here. The loss, a softmax over the whole
catalogue, and the loop are handed over by `experiments/`.

Source: Kang and McAuley, 2018, Self-Attentive Sequential Recommendation; trained with the softmax that Klenitskiy and
Vasilev, 2023, Turning Dross Into Gold Loss, found to be what SASRec lacked.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from tokenrec_jax.numerics import normalize
from tokenrec_jax.types import PADDING, ConfigError

SIMILARITIES = ("dot", "cosine")
POSITIONS = ("absolute", "relative")
#: Added to attention scores of later positions.
_HIDDEN = -1e9


@dataclasses.dataclass
class SASRecConfig:
    """Size and regularisation of the model."""

    # Size of item vectors and hidden states (SASRec: 50).
    dim: int = 64
    # Transformer layers and attention heads of each (SASRec: 2 and 1).
    num_layers: int = 2
    num_heads: int = 2
    # Hidden size of the feed-forward, in multiples of `dim` (SASRec: 1).
    feed_forward_factor: int = 4
    # Dropout rate of embeddings, attention weights and the output of each part (SASRec: 0.2, 0.5 where data are few).
    dropout: float = 0.3
    # One of POSITIONS: a learned vector for each place, counted from the newest item (SASRec), or a learned weight of
    # attention for each distance, which makes every target of a history an example of the same function.
    positions: str = "relative"
    # One of SIMILARITIES: logits are dot products (SASRec) or cosines divided by `temperature`.
    similarity: str = "cosine"
    # Divides cosines; not read with "dot".
    temperature: float = 0.05
    # Standard deviation of the initial embeddings and kernels (BERT4Rec: 0.02).
    init_std: float = 0.02

    def validate(self) -> None:
        """Raises ConfigError naming the field, the value and what is allowed."""
        for name in ("dim", "num_layers", "num_heads", "feed_forward_factor"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; allowed is 1 or more")
        if self.dim % self.num_heads:
            raise ConfigError(f"model.num_heads is {self.num_heads}; allowed are divisors of dim = {self.dim}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout is {self.dropout}; allowed is 0 or more and below 1")
        for name, allowed in (("similarity", SIMILARITIES), ("positions", POSITIONS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"model.{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name in ("temperature", "init_std"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; allowed is above 0")


class SASRec(nnx.Module):
    """Item embeddings, positions, pre-norm causal layers, a last norm; the item embeddings are the output's too.

    Differs: SASRec normalises the queries of an attention but neither keys nor values, and scores its targets
      against one sampled negative. Here padding stands on the right.

    Attributes:
      item_embedding: [items, dim].
      position_embedding: [max_history, dim], the newest item of a history has the last one; None where positions are
        relative.
    """

    def __init__(self, config: SASRecConfig, *, num_items: int, max_history: int, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.item_embedding = nnx.Param(init(rngs.params(), (num_items, config.dim)))
        absolute = config.positions == "absolute"
        self.position_embedding = nnx.Param(init(rngs.params(), (max_history, config.dim))) if absolute else None
        self.layers = nnx.List(
            [SASRecLayer(config, max_history=max_history, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.final_norm = nnx.LayerNorm(config.dim, rngs=rngs)

    def queries(
        self, history: Int[Array, "batch history"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch history emb"]:
        """Returns what to multiply with `items` for the logits of the item after each history item.

        Args:
          history: item ids, right-padded with `PADDING`; at most `max_history`. A position sees itself and earlier
            ones, so padding changes nothing before it.
          key: dropout key, or None for no dropout.
        """
        keys = _split(key, 1 + len(self.layers))
        hidden = self.item_embedding[...][jnp.maximum(history, 0)]
        if self.position_embedding is not None:
            places = self.position_embedding[...]
            hidden = hidden + places[_from_the_right(history, slots=places.shape[0])]
        hidden = _dropout(hidden, rate=self.config.dropout, key=keys[0])
        for layer, layer_key in zip(self.layers, keys[1:], strict=True):
            hidden = layer(hidden, key=layer_key)
        hidden = self.final_norm(hidden)
        return normalize(hidden) / self.config.temperature if self.config.similarity == "cosine" else hidden

    def last_query(self, history: Int[Array, "batch history"]) -> Float[Array, "batch emb"]:
        """Returns the query after the newest item of each history; an empty one gets that of padding."""
        last = jnp.maximum(jnp.sum(history != PADDING, axis=1) - 1, 0)
        return jnp.take_along_axis(self.queries(history), last[:, None, None], axis=1)[:, 0]

    def items(self) -> Float[Array, "items emb"]:
        """Returns the vectors that queries are multiplied with."""
        vectors = self.item_embedding[...]
        return normalize(vectors) if self.config.similarity == "cosine" else vectors


class SASRecLayer(nnx.Module):
    """Causal self-attention, then feed-forward: x + dropout(part(norm(x))) each."""

    def __init__(self, config: SASRecConfig, *, max_history: int, rngs: nnx.Rngs):
        def linear(in_dim: int, out_dim: int) -> nnx.Linear:
            return nnx.Linear(in_dim, out_dim, kernel_init=nnx.initializers.normal(config.init_std), rngs=rngs)

        dim, wide = config.dim, config.dim * config.feed_forward_factor
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.attention_norm = nnx.LayerNorm(dim, rngs=rngs)
        self.query_key_value = linear(dim, 3 * dim)
        self.attention_output = linear(dim, dim)
        relative = config.positions == "relative"
        self.distance_bias = nnx.Param(jnp.zeros((config.num_heads, max_history))) if relative else None
        self.feed_forward_norm = nnx.LayerNorm(dim, rngs=rngs)
        self.feed_forward_input = linear(dim, wide)
        self.feed_forward_output = linear(wide, dim)

    def __call__(
        self, hidden: Float[Array, "batch history emb"], *, key: Key[Array, ""] | None
    ) -> Float[Array, "batch history emb"]:
        """Returns the hidden states after this layer."""
        weights_key, *keys = _split(key, 3)
        out = self.attention_output(self._attend(self.attention_norm(hidden), key=weights_key))
        hidden = hidden + _dropout(out, rate=self.dropout, key=keys[0])
        out = self.feed_forward_input(self.feed_forward_norm(hidden))
        out = self.feed_forward_output(jax.nn.relu(out))
        return hidden + _dropout(out, rate=self.dropout, key=keys[1])

    def _attend(
        self, x: Float[Array, "batch history emb"], *, key: Key[Array, ""] | None
    ) -> Float[Array, "batch history emb"]:
        length = x.shape[1]
        heads = self.query_key_value(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        query, keys, values = (heads[:, :, part] for part in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys) * query.shape[-1] ** -0.5
        distance = np.arange(length)[:, None] - np.arange(length)[None, :]
        if self.distance_bias is not None:
            scores = scores + self.distance_bias[...][:, np.maximum(distance, 0)][None]
        weights = jax.nn.softmax(jnp.where((distance >= 0)[None, None], scores, _HIDDEN), axis=-1)
        weights = _dropout(weights, rate=self.dropout, key=key)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(x.shape)


def _from_the_right(history: Int[Array, "batch history"], *, slots: int) -> Int[Array, "batch history"]:
    """Returns the places of items as if padding stood on the left, which is where SASRec has it.

    The query of a recommendation then always comes from the last place, which every training history has.
    """
    length = jnp.sum(history != PADDING, axis=1, keepdims=True)
    return jnp.minimum(slots - length + jnp.arange(history.shape[1])[None], slots - 1)


def _dropout(x: Float[Array, "*shape"], *, rate: float, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """Zeroes each element with probability `rate` and scales the others by 1 / (1 - rate); no-op without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def _split(key: Key[Array, ""] | None, count: int) -> list[Key[Array, ""] | None]:
    return [None] * count if key is None else list(jax.random.split(key, count))
