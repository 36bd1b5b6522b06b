"""Llama 3, Qwen2, Qwen3 and SmolLM2: one stack whose options are in `LlamaConfig`. Read `LlamaAttention`.

Source: Touvron et al., 2023 (Llama); Grattafiori et al., 2024 (Llama 3); the Qwen2 and Qwen3 reports. Compared with
transformers' PyTorch models by `tests/parity/test_decoder_parity.py`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from tokenrec_jax.models.llm.decoder import Decoder, DecoderLayer, KeyValue, Reading, attend, random_linear, with_cached
from tokenrec_jax.models.llm.decoder_config import LlamaConfig
from tokenrec_jax.models.llm.layer_calls import UNROLLED, LayerCalls
from tokenrec_jax.models.llm.rope import Rotation, inverse_frequencies, rotate, rotation
from tokenrec_jax.models.llm.t5_layers import Dropout, RMSNorm


class Llama(Decoder):
    """A `Decoder` with rotary positions."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        dropout_rate: float | None = None,
        calls: LayerCalls = UNROLLED,
    ):
        if dropout_rate is not None:
            config = dataclasses.replace(config, dropout_rate=dropout_rate)
        super().__init__(config, rngs=rngs, dtype=dtype, calls=calls)

        def norm() -> RMSNorm:
            return RMSNorm(config.model_dim, epsilon=config.norm_epsilon, scale=1.0)

        def layer() -> DecoderLayer:
            return DecoderLayer(
                norm=norm,
                attention=LlamaAttention(config, rngs=rngs, dtype=self.dtype),
                feed_forward=LlamaFeedForward(config, rngs=rngs, dtype=self.dtype),
                dropout=Dropout(config.dropout_rate, config.dropout_each_position),
            )

        self.layers = nnx.List([layer() for _ in range(config.num_layers)])
        self.final_norm = norm()

    def _enter(self, embedded, positions, *, key):
        return embedded

    def _rotation(self, positions: Int[Array, "batch length"]) -> Rotation:
        frequencies = inverse_frequencies(self.config.rope, head_dim=self.config.head_dim)
        return rotation(positions, frequencies=frequencies)


class LlamaAttention(nnx.Module):
    """Rotary attention in which groups of query heads share keys and values."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs, dtype: Any):
        self.head_dim = config.head_dim

        def linear(in_dim: int, out_dim: int, *, bias: bool) -> nnx.Linear:
            return random_linear(in_dim, out_dim, std=config.initializer_range, bias=bias, rngs=rngs, dtype=dtype)

        def norm() -> RMSNorm | None:
            return RMSNorm(config.head_dim, epsilon=config.norm_epsilon, scale=1.0) if config.qk_norm else None

        inner_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = linear(config.model_dim, inner_dim, bias=config.qkv_bias)
        self.key = linear(config.model_dim, kv_dim, bias=config.qkv_bias)
        self.value = linear(config.model_dim, kv_dim, bias=config.qkv_bias)
        self.output = linear(inner_dim, config.model_dim, bias=False)
        self.query_norm, self.key_norm = norm(), norm()

    def __call__(
        self,
        x: Float[Array, "batch length model"],
        *,
        reading: Reading,
        cached: KeyValue | None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch position model"], KeyValue]:
        """Attends from the tokens that `reading` asks for to all of `x` and to the cache; has no dropout for a key."""
        asking = x[:, -reading.visible.shape[1] :]
        query, keys = self._heads(self.query(asking)), self._heads(self.key(x))
        if self.query_norm is not None and self.key_norm is not None:
            query, keys = self.query_norm(query), self.key_norm(keys)
        if reading.rotation is not None:
            cosine, sine = reading.rotation
            query = rotate(query, (cosine[:, -query.shape[1] :], sine[:, -query.shape[1] :]))
            keys = rotate(keys, reading.rotation)
        key_value = with_cached((keys, self._heads(self.value(x))), cached, reading.start)
        mixed = attend(query, *key_value, visible=reading.visible)
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), key_value

    def _heads(self, x: Float[Array, "batch length inner"]) -> Float[Array, "batch length head head_dim"]:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


class LlamaFeedForward(nnx.Module):
    """SwiGLU: a SiLU branch times a linear one, projected back.

    Source: Shazeer, 2020.
    """

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs, dtype: Any):
        def linear(in_dim: int, out_dim: int) -> nnx.Linear:
            return random_linear(in_dim, out_dim, std=config.initializer_range, bias=False, rngs=rngs, dtype=dtype)

        self.gate = linear(config.model_dim, config.feed_forward_dim)
        self.input = linear(config.model_dim, config.feed_forward_dim)
        self.output = linear(config.feed_forward_dim, config.model_dim)

    def __call__(self, x: Float[Array, "batch length model"]) -> Float[Array, "batch length model"]:
        """Transforms each position."""
        return self.output(jax.nn.silu(self.gate(x)) * self.input(x))
