"""The decoder of a T5 one token at a time, for several continuations of each prompt. Read `CachedDecoder.step`.

The same function as `T5.decode`, which `tests/baselines/test_tiger.py` checks. Keys and values of the encoder are made
once a prompt and shared by its beams; those of earlier tokens are kept and follow their beams.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.models.llm.t5 import T5, T5Layer
from tokenrec_jax.models.llm.t5_layers import NO_DROPOUT, Attention, mask_bias

#: Keys and values of the tokens so far of each beam, for each layer: [batch, beam, slot, head, head_dim].
Cache = list[tuple[Array, Array]]


class CachedDecoder:
    """A T5 that has read prompts and continues each of them along several beams."""

    def __init__(
        self,
        t5: T5,
        encoder_hidden: Float[Array, "batch length model"],
        mask: Bool[Array, "batch length"],
        *,
        slots: int,
    ):
        """Projects the prompts.

        Args:
          t5: the model.
          encoder_hidden: what `T5.encode` returned.
          mask: what it was given.
          slots: tokens that will be decoded.
        """
        # A decoder's layers all have the parts that the type says an encoder's lack.
        self._layers: list[Any] = list(t5.decoder.layers)
        self._final_norm = t5.decoder.final_norm
        self._bias = t5.decoder.relative_bias(slots, causal=True)
        # A beam is one more axis before the keys, with which it has nothing to do.
        self._prompt_bias = mask_bias(mask)
        self._prompts = [
            (
                _heads(layer.cross_attention, "key", encoder_hidden),
                _heads(layer.cross_attention, "value", encoder_hidden),
            )
            for layer in self._layers
        ]

    def empty(self) -> Cache:
        """Returns the cache before the first token; one beam a prompt."""
        batch, _, heads, head_dim = self._prompts[0][0].shape
        nothing = jnp.zeros((batch, 1, 0, heads, head_dim))
        return [(nothing, nothing) for _ in self._prompts]

    def step(
        self,
        embeds: Float[Array, "batch beam model"],
        cache: Cache,
        *,
        parent: Int[Array, "batch beam"],
        place: int,
    ) -> tuple[Float[Array, "batch beam model"], Cache]:
        """Returns the hidden states after one more token a beam, and the cache with it.

        Args:
          embeds: of the tokens.
          cache: of the beams that were, with `place` slots.
          parent: which of these each beam continues.
          place: tokens decoded before.
        """
        hidden, kept = embeds, []
        bias = self._bias[:, :, place, : place + 1][:, None]
        for layer, old, (keys, values) in zip(self._layers, cache, self._prompts, strict=True):
            hidden, new = _layer_step(layer, hidden, old, parent, bias)
            kept.append(new)
            normed = layer.cross_attention_norm(hidden)
            query = _heads(layer.cross_attention, "query", normed)
            scores = jnp.einsum("bnhd,blhd->bhnl", query, keys, preferred_element_type=jnp.float32)
            weights = jax.nn.softmax(scores + self._prompt_bias, axis=-1).astype(hidden.dtype)
            mixed = jnp.einsum("bhnl,blhd->bnhd", weights, values)
            hidden = hidden + layer.cross_attention.output(mixed.reshape(*hidden.shape[:2], -1))
            hidden = hidden + layer.feed_forward(layer.feed_forward_norm(hidden), dropout=NO_DROPOUT, key=None)
        return self._final_norm(hidden), kept


def _layer_step(
    layer: T5Layer,
    hidden: Float[Array, "batch beam model"],
    cached: tuple[Array, Array],
    parent: Int[Array, "batch beam"],
    bias: Float[Array, "1 1 head slot"],
) -> tuple[Float[Array, "batch beam model"], tuple[Array, Array]]:
    """Returns the hidden states after the self-attention of a layer, and its keys and values with the new token's."""
    normed = layer.self_attention_norm(hidden)

    def extended(name: str, old: Array) -> Array:
        mine = jnp.take_along_axis(old, parent[:, :, None, None, None], axis=1)
        return jnp.concatenate([mine, _heads(layer.self_attention, name, normed)[:, :, None]], axis=2)

    keys, values = extended("key", cached[0]), extended("value", cached[1])
    query = _heads(layer.self_attention, "query", normed)
    scores = jnp.einsum("bnhd,bnshd->bnhs", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores + bias, axis=-1).astype(hidden.dtype)
    mixed = jnp.einsum("bnhs,bnshd->bnhd", weights, values)
    return hidden + layer.self_attention.output(mixed.reshape(*hidden.shape[:2], -1)), (keys, values)


def _heads(attention: Attention, name: str, x: Float[Array, "batch _ model"]) -> Float[Array, "batch _ head head_dim"]:
    """Returns queries, keys or values of an attention for each of its heads."""
    return getattr(attention, name)(x).reshape(*x.shape[:2], attention.num_heads, attention.head_dim)
