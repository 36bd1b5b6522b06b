"""GPT-2: learned positions, layer norms, one projection for queries, keys and values. Read `GPT2Attention`.

Source: Radford et al., 2019. Compared with transformers' PyTorch model by `tests/parity/test_decoder_parity.py`.
Differs: one dropout draw serves all positions by default, see `t5_layers.Dropout`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from tokenrec_jax.models.llm.decoder import Decoder, DecoderLayer, KeyValue, Reading, attend, random_linear, with_cached
from tokenrec_jax.models.llm.decoder_config import GPT2Config
from tokenrec_jax.models.llm.layer_calls import UNROLLED, LayerCalls
from tokenrec_jax.models.llm.t5_layers import Dropout


class GPT2(Decoder):
    """A `Decoder` with a table of positions: [positions, model]."""

    def __init__(
        self,
        config: GPT2Config,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        dropout_rate: float | None = None,
        calls: LayerCalls = UNROLLED,
    ):
        if dropout_rate is not None:
            rate = dropout_rate
            config = dataclasses.replace(config, dropout_rate=rate, embedding_dropout=rate, attention_dropout=rate)
        super().__init__(config, rngs=rngs, dtype=dtype, calls=calls)
        shape = (config.max_positions, config.model_dim)
        self.dropout = Dropout(config.embedding_dropout, config.dropout_each_position)
        self.position_embedding = nnx.Param(config.initializer_range * jax.random.normal(rngs.params(), shape))

        def norm() -> LayerNorm:
            return LayerNorm(config.model_dim, epsilon=config.norm_epsilon)

        def layer() -> DecoderLayer:
            return DecoderLayer(
                norm=norm,
                attention=GPT2Attention(config, rngs=rngs, dtype=self.dtype),
                feed_forward=GPT2FeedForward(config, rngs=rngs, dtype=self.dtype),
                dropout=Dropout(config.dropout_rate, config.dropout_each_position),
            )

        self.layers = nnx.List([layer() for _ in range(config.num_layers)])
        self.final_norm = norm()

    def _enter(
        self,
        embedded: Float[Array, "batch length model"],
        positions: Int[Array, "#batch length"],
        *,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length model"]:
        hidden = embedded + self.position_embedding[...][positions].astype(self.dtype)
        return self.dropout(hidden, key=key)

    def _rotation(self, positions) -> None:
        return None


class LayerNorm(nnx.Module):
    """Shifts to mean 0 and scales to variance 1 over the last axis, in float32; learned scale and bias."""

    def __init__(self, dim: int, *, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))

    def __call__(self, x: Float[Array, "batch length model"]) -> Float[Array, "batch length model"]:
        """Returns the normed input in its own type."""
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * self.scale[...][None, None, :] + self.bias[...][None, None, :]).astype(x.dtype)


class GPT2Attention(nnx.Module):
    """Multi-head attention; `qkv` holds the three projections side by side, as the checkpoints do."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs, dtype: Any):
        self.num_heads = config.num_heads
        self.dropout = Dropout(config.attention_dropout, config.dropout_each_position)
        dim, std = config.model_dim, config.initializer_range
        self.qkv = random_linear(dim, 3 * dim, std=std, bias=True, rngs=rngs, dtype=dtype)
        self.output = random_linear(dim, dim, std=_residual_std(config), bias=True, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "batch length model"],
        *,
        reading: Reading,
        cached: KeyValue | None,
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "batch position model"], KeyValue]:
        """Attends from the tokens that `reading` asks for to all of `x` and to the cache."""
        query, keys, values = (self._heads(part) for part in jnp.split(self.qkv(x), 3, axis=-1))
        query = query[:, -reading.visible.shape[1] :]
        key_value = with_cached((keys, values), cached, reading.start)
        mixed = attend(query, *key_value, visible=reading.visible, dropout=self.dropout, key=key)
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), key_value

    def _heads(self, x: Float[Array, "batch length inner"]) -> Float[Array, "batch length head head_dim"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)


class GPT2FeedForward(nnx.Module):
    """Two projections with a tanh-GELU between them."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs, dtype: Any):
        dim, hidden_dim = config.model_dim, config.feed_forward_dim
        self.input = random_linear(dim, hidden_dim, std=config.initializer_range, bias=True, rngs=rngs, dtype=dtype)
        self.output = random_linear(hidden_dim, dim, std=_residual_std(config), bias=True, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "batch length model"]) -> Float[Array, "batch length model"]:
        """Transforms each position."""
        return self.output(jax.nn.gelu(self.input(x), approximate=True))


def _residual_std(config: GPT2Config) -> float:
    """Returns the initial scale of what adds to the residual stream, which has two such terms a layer."""
    return config.initializer_range / (2 * config.num_layers) ** 0.5
