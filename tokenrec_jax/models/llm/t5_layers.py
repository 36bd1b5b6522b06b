"""The parts of a T5 layer: norm, attention, feed-forward, relative positions, dropout.

Parameters are float32; activations have the type of the input, with scores, softmax and norms in float32.
Nothing has a bias. The stacks that are built from these parts are in `t5.py`; read `Attention` first.

Source: Raffel et al., 2020 (T5); Shazeer, 2020 (gated feed-forward of v1.1). Names and dropout places follow
transformers' `modeling_t5.py`, against which `tests/parity/test_t5_parity.py` compares all of this.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

#: Added to scores that must not count. Finite, so that a row in which nothing counts stays free of NaN.
MASKED = -1e9


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Zeroes elements with probability `rate` and scales the others by 1 / (1 - rate).

    Positions are the second last axis of hidden states and of attention weights.

    Source: Mesh TensorFlow's `transformer.py`, with which T5 was pretrained (`noise_shape` lacks the length).
    Differs: transformers always draws for each position, length times as many random numbers.

    Attributes:
      rate: 0 up to, not including, 1.
      each_position: draw for each position; otherwise one draw serves all positions of a row.
    """

    rate: float
    each_position: bool = False

    def __call__(self, x: Float[Array, "*shape"], *, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
        """Returns what is left of `x`, all of it if `key` is None."""
        if key is None or self.rate == 0.0:
            return x
        drawn = x.shape if self.each_position else (*x.shape[:-2], 1, x.shape[-1])
        keep = jax.random.bernoulli(key, 1.0 - self.rate, drawn)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros((), x.dtype))


NO_DROPOUT = Dropout(0.0)


def split_key(key: Key[Array, ""] | None, count: int) -> list[Key[Array, ""] | None]:
    """Returns `count` keys, all None if `key` is: dropout is on everywhere or nowhere."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def mask_bias(mask: Bool[Array, "batch length"]) -> Float[Array, "batch 1 1 length"]:
    """Returns what to add to attention scores so that only positions that are True in `mask` count."""
    return jnp.where(mask, 0.0, MASKED)[:, None, None, :]


def relative_position_bucket(
    distance: Int[np.ndarray, "*shape"], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[np.ndarray, "*shape"]:
    """Returns the bucket of each signed distance, attended position minus attending position.

    Half of the buckets are single distances, the other half grow logarithmically up to `max_distance`; all
    beyond share the last one. If `bidirectional`, the upper half of the ids is for positive distances;
    otherwise these, which a causal mask hides, fall into bucket 0.

    Plain numpy, because distances follow from static shapes: the result is a constant of the compiled
    program.

    Source: Raffel et al., 2020, §2.1, with the float32 rounding of `T5Attention._relative_position_bucket`.
    """
    offset = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distance > 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    num_exact = num_buckets // 2
    # max(distance, 1): the logarithm of 0 is never used, but numpy would warn.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(num_exact))
    growth = ratio / np.float32(math.log(max_distance / num_exact)) * np.float32(num_buckets - num_exact)
    large = np.minimum(num_exact + growth.astype(np.int32), num_buckets - 1)
    return (offset + np.where(distance < num_exact, distance, large)).astype(np.int32)


class RMSNorm(nnx.Module):
    """Divides by the root mean square over the last axis, in float32; learned scale, no mean, no bias."""

    def __init__(self, dim: int, *, epsilon: float, scale: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.full((dim,), scale, jnp.float32))

    def __call__(self, x: Float[Array, "*shape model"]) -> Float[Array, "*shape model"]:
        """Returns the normed input in its own type."""
        wide = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class RelativeBias(nnx.Module):
    """Learned bias of scores for each bucket of distances and each head; all layers of a stack share it."""

    def __init__(self, num_heads: int, *, num_buckets: int, max_distance: int, std: float, rngs: nnx.Rngs):
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.embedding = nnx.Param(std * jax.random.normal(rngs.params(), (num_buckets, num_heads)))

    def __call__(self, length: int, *, causal: bool) -> Float[Array, "1 head length length"]:
        """Returns the bias of each pair of positions; `causal` also masks all later positions."""
        position = np.arange(length)
        distance = position[None, :] - position[:, None]
        buckets = relative_position_bucket(
            distance, bidirectional=not causal, num_buckets=self.num_buckets, max_distance=self.max_distance
        )
        # A product with one-hot rows instead of a gather: its gradient is a product too, not a serial
        # scatter. Full precision, as TPUs would round the biases to bfloat16.
        one_hot = jax.nn.one_hot(buckets, self.num_buckets, dtype=jnp.float32)
        bias = jnp.einsum("qkb,bh->hqk", one_hot, self.embedding[...], precision=jax.lax.Precision.HIGHEST)
        if causal:
            bias = jnp.where((distance > 0)[None], MASKED, bias)
        return bias[None]


class Attention(nnx.Module):
    """Multi-head attention without scaling of the scores (T5 folds it into the initial query kernel)."""

    def __init__(self, model_dim: int, *, num_heads: int, head_dim: int, factor: float, rngs: nnx.Rngs, dtype):
        self.num_heads = num_heads
        self.head_dim = head_dim
        inner_dim = num_heads * head_dim

        def linear(in_dim: int, out_dim: int, std: float) -> nnx.Linear:
            init = nnx.initializers.normal(factor * std)
            return nnx.Linear(in_dim, out_dim, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)

        self.query = linear(model_dim, inner_dim, (model_dim * head_dim) ** -0.5)
        self.key = linear(model_dim, inner_dim, model_dim**-0.5)
        self.value = linear(model_dim, inner_dim, model_dim**-0.5)
        self.output = linear(inner_dim, model_dim, inner_dim**-0.5)

    def __call__(
        self,
        x: Float[Array, "batch position model"],
        *,
        source: Float[Array, "prompt length model"],
        biases: tuple[Float[Array, "#batch #head #position length"], ...],
        dropout: Dropout,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch position model"]:
        """Attends from `x` to `source` (`x` itself in self-attention).

        Args:
          x: attending positions.
          source: attended positions, for each row or one row for all.
          biases: what is added to the scores. Separate, because small broadcast operands that stay in cache
            are cheaper to read in every layer than their sum for all examples and heads.
          dropout: of the attention weights.
          key: dropout key, or None for no dropout.
        """
        query = self._heads(self.query(x))
        # With fewer queries than dimensions of a head it is cheaper to move the key and value kernels to the
        # side of the queries than to project the whole source: (q K) xᵀ = q (x Kᵀ)ᵀ. A decoder of one
        # position saves most of its work this way. A source that all rows share is projected for next to nothing.
        shared = source.shape[0] < x.shape[0]
        moved = source is not x and not shared and x.shape[1] < self.head_dim
        if shared:
            keys = self._heads(self.key(source))[0]
            scores = jnp.einsum("bqhd,khd->bhqk", query, keys, preferred_element_type=jnp.float32)
        elif moved:
            query = jnp.einsum("bqhd,mhd->bqhm", query, self._kernel(self.key))
            scores = jnp.einsum("bqhm,bkm->bhqk", query, source, preferred_element_type=jnp.float32)
        else:
            keys = self._heads(self.key(source))
            scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys, preferred_element_type=jnp.float32)
        for bias in biases:
            scores = scores + bias
        weights = dropout(jax.nn.softmax(scores, axis=-1).astype(x.dtype), key=key)
        if shared:
            mixed = jnp.einsum("bhqk,khd->bqhd", weights, self._heads(self.value(source))[0])
        elif moved:
            mixed = jnp.einsum("bhqk,bkm->bqhm", weights, source)
            mixed = jnp.einsum("bqhm,mhd->bqhd", mixed, self._kernel(self.value))
        else:
            mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, self._heads(self.value(source)))
        return self.output(mixed.reshape(*x.shape[:2], self.num_heads * self.head_dim))

    def _heads(self, x: Float[Array, "batch length inner"]) -> Float[Array, "batch length head head_dim"]:
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim)

    def _kernel(self, linear: Any) -> Float[Array, "model head head_dim"]:
        kernel = linear.kernel[...].astype(linear.dtype)
        return kernel.reshape(-1, self.num_heads, self.head_dim)


class FeedForward(nnx.Module):
    """Two projections with a ReLU between them; if `gated`, a GELU branch times a linear one."""

    def __init__(self, model_dim: int, *, hidden_dim: int, gated: bool, factor: float, rngs: nnx.Rngs, dtype):
        def linear(in_dim: int, out_dim: int) -> nnx.Linear:
            init = nnx.initializers.normal(factor * in_dim**-0.5)
            return nnx.Linear(in_dim, out_dim, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)

        self.gate = linear(model_dim, hidden_dim) if gated else None
        self.input = linear(model_dim, hidden_dim)
        self.output = linear(hidden_dim, model_dim)

    def __call__(
        self, x: Float[Array, "batch length model"], *, dropout: Dropout, key: Key[Array, ""] | None
    ) -> Float[Array, "batch length model"]:
        """Transforms each position; `dropout` and its `key` are of what is between the two projections."""
        hidden = self.input(x)
        # approximate=True is the tanh form, called "gelu_new" by transformers.
        hidden = jax.nn.relu(hidden) if self.gate is None else jax.nn.gelu(self.gate(x), approximate=True) * hidden
        return self.output(dropout(hidden, key=key))
