"""What the decoder-only families share: prompt and queries in one causal row, positions, cache, vocabulary.

Read `Decoder.hidden_states`, then `attend`. A family adds its layers and how positions enter: `llama.py`,
`gpt2.py`. Shapes are in `decoder_config.py`, checkpoints in `hf_weights.py`. No loss and no sampling here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from tokenrec_jax.models.llm.layer_calls import UNROLLED, LayerCalls
from tokenrec_jax.models.llm.rope import Rotation
from tokenrec_jax.models.llm.t5_layers import MASKED, NO_DROPOUT, Dropout, split_key
from tokenrec_jax.models.llm.vocabulary_rows import TokenTables
from tokenrec_jax.types import ConfigError

#: Keys and values of one layer: [batch, new tokens or all slots, key-value head, head_dim] each.
KeyValue = tuple[Float[Array, "batch _ kv_head head_dim"], Float[Array, "batch _ kv_head head_dim"]]


# Passes through tree functions that put shapes or shardings where the arrays were, see `types.py`.
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of what was read so far, in slots whose number never changes.

    Attributes:
      layers: of each layer; slots from `used` on hold nothing.
      mask: True where a slot holds a real token.
      used: number of filled slots, padding included; the same for all rows.
    """

    layers: tuple[KeyValue, ...]
    mask: Bool[Any, "batch slot"]
    used: Int[Any, ""]


@dataclasses.dataclass(frozen=True)
class Reading:
    """Where the tokens that a layer reads stand; the same for all layers.

    Attributes:
      rotation: turns of their queries and keys, None where positions are added to the embeddings.
      visible: which slots each of the last `position` tokens attends to; the layer returns the states of these.
      start: slot of the first token in the cache, None if there is no cache.
    """

    rotation: Rotation | None
    visible: Bool[Array, "#batch position slot"]
    start: Int[Array, ""] | None = None


def attend(
    query: Float[Array, "batch position head head_dim"],
    keys: Float[Array, "batch slot kv_head head_dim"],
    values: Float[Array, "batch slot kv_head head_dim"],
    *,
    visible: Bool[Array, "#batch position slot"],
    dropout: Dropout = NO_DROPOUT,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch position head head_dim"]:
    """Softmax attention, scores divided by sqrt(head_dim); groups of heads share keys and values.

    Args:
      query: of the attending positions.
      keys: of the attended slots.
      values: of the same.
      visible: True where a position attends to a slot. A position that sees none gets something finite.
      dropout: of the attention weights.
      key: dropout key, or None for no dropout.
    """
    if key is None or dropout.rate == 0.0:
        return jax.nn.dot_product_attention(query, keys, values, mask=visible[:, None])
    groups = query.shape[2] // keys.shape[2]
    keys, values = (jnp.repeat(x, groups, axis=2) for x in (keys, values))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None], scores * query.shape[-1] ** -0.5, MASKED)
    weights = dropout(jax.nn.softmax(scores, axis=-1).astype(query.dtype), key=key)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, values)


def with_cached(key_value: KeyValue, cached: KeyValue | None, start: Int[Array, ""] | None) -> KeyValue:
    """Returns the cached slots with new keys and values written from slot `start` on; the new ones without cache."""
    if cached is None or start is None:
        return key_value
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
        for old, new in zip(cached, key_value, strict=True)
    )
    return keys, values


def random_linear(in_dim: int, out_dim: int, *, std: float, bias: bool, rngs: nnx.Rngs, dtype: Any) -> nnx.Linear:
    """Returns a projection with normal weights; its bias, if any, is 0."""
    init = nnx.initializers.normal(std)
    return nnx.Linear(in_dim, out_dim, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)


class DecoderLayer(nnx.Module):
    """Attention, then feed-forward: x + dropout(part(norm(x))) each."""

    def __init__(self, *, norm: Callable[[], Any], attention: nnx.Module, feed_forward: nnx.Module, dropout: Dropout):
        """Takes its parts; `norm` makes one, and `attention` is called as `attention(x, reading=, cached=, key=)`."""
        self.dropout = dropout
        self.attention_norm = norm()
        self.attention: Any = attention
        self.feed_forward_norm = norm()
        self.feed_forward: Any = feed_forward

    def __call__(
        self,
        hidden: Float[Array, "batch length model"],
        *,
        reading: Reading,
        cached: KeyValue | None,
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "batch position model"], KeyValue]:
        """Returns the states of the tokens that `reading` asks for, and all keys and values."""
        keys = split_key(key, 3)
        normed = self.attention_norm(hidden)
        mixed, key_value = self.attention(normed, reading=reading, cached=cached, key=keys[0])
        hidden = hidden[:, -mixed.shape[1] :] + self.dropout(mixed, key=keys[1])
        out = self.feed_forward(self.feed_forward_norm(hidden))
        return hidden + self.dropout(out, key=keys[2]), key_value


class Decoder(TokenTables):
    """A causal stack over embeddings; a `LanguageModel`. Subclasses set `layers` and `final_norm`.

    Attributes:
      dtype: type of activations. Parameters, scores, softmax, norms, rotations and logits are float32.
      calls: how the layers are called, see `layer_calls.py`.
      layers: each a `DecoderLayer`.
      final_norm: norm of the last hidden states.
    """

    layers: nnx.List
    final_norm: nnx.Module

    def __init__(self, config: Any, *, rngs: nnx.Rngs, dtype: Any = jnp.float32, calls: LayerCalls = UNROLLED):
        super().__init__(config, std=config.initializer_range, rngs=rngs, dtype=dtype)
        self.calls = calls

    def hidden_states(
        self,
        inputs_embeds: Float[Array, "prompt length model"],
        mask: Bool[Array, "prompt length"],
        *,
        query_embeds: Float[Array, "batch position model"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch position model"]:
        """Reads a prompt, then the queries; returns the states at the queries, after the final norm.

        Positions count real tokens only, so padding may stand on either side and changes nothing. Query p sees the
        prompt and the queries 0 .. p. A prompt that all rows share is read once.

        Args:
          inputs_embeds: what `embed` returns, possibly with more added; one prompt a row, or one for all.
          mask: True where a position counts.
          query_embeds: embeddings of what is appended; all of them count.
          key: dropout key, or None for no dropout.

        Raises:
          ConfigError: prompt and queries are longer than the model's positions.
        """
        if inputs_embeds.shape[0] < query_embeds.shape[0]:
            return self._read_after(inputs_embeds.astype(self.dtype), mask, query_embeds.astype(self.dtype), key=key)
        row = jnp.concatenate([inputs_embeds.astype(self.dtype), query_embeds.astype(self.dtype)], axis=1)
        counts = jnp.concatenate([mask, jnp.ones(query_embeds.shape[:2], bool)], axis=1)
        return self._read(row, counts, num_states=query_embeds.shape[1], key=key)

    def __call__(
        self,
        input_ids: Int[Array, "batch length"],
        attention_mask: Bool[Array, "batch length"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length model"]:
        """Returns the last hidden state of each token; those of padding mean nothing. No mask: all count."""
        mask = jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask
        return self._read(self.embed(input_ids), mask, num_states=input_ids.shape[1], key=key)

    def init_cache(self, batch: int, length: int) -> KVCache:
        """Returns an empty cache of `length` slots for `decode`.

        Raises:
          ConfigError: more slots than the model has positions.
        """
        self._check_length(length)
        shape = (batch, length, self.config.num_kv_heads, self.config.head_dim)

        def empty() -> Float[Array, "batch length kv_head head_dim"]:
            return jnp.zeros(shape, self.dtype)

        return KVCache(
            layers=tuple((empty(), empty()) for _ in self.layers),
            mask=jnp.zeros((batch, length), bool),
            used=jnp.zeros((), jnp.int32),
        )

    def decode(
        self,
        inputs_embeds: Float[Array, "batch position model"],
        cache: KVCache,
        *,
        mask: Bool[Array, "batch position"] | None = None,
    ) -> tuple[Float[Array, "batch position model"], KVCache]:
        """Reads more tokens after those in the cache, without dropout.

        Args:
          inputs_embeds: embeddings of the new tokens: a whole prompt, or one token a row.
          cache: from `init_cache` or the call before. The caller sees to it that it has enough free slots; more
            tokens than that would overwrite the last ones.
          mask: True where a new token counts; None: all do.

        Returns:
          The last hidden states of the new tokens, and the cache with them.
        """
        num_new, num_slots = inputs_embeds.shape[1], cache.mask.shape[1]
        if num_new > num_slots:
            raise ValueError(f"decode: {num_new} tokens for a cache of {num_slots} slots")
        if mask is None:
            mask = jnp.ones(inputs_embeds.shape[:2], bool)
        positions = _positions(mask) + jnp.sum(cache.mask, axis=1, dtype=jnp.int32)[:, None]
        counts = jax.lax.dynamic_update_slice_in_dim(cache.mask, mask, cache.used, axis=1)
        reading = Reading(
            rotation=self._rotation(positions),
            visible=_visible(counts, start=cache.used, num_rows=num_new),
            start=cache.used,
        )
        hidden = self._enter(inputs_embeds.astype(self.dtype), positions, key=None)
        layers = []
        for layer, cached in zip(self.layers, cache.layers, strict=True):
            hidden, key_value = layer(hidden, reading=reading, cached=cached, key=None)
            layers.append(key_value)
        return self.final_norm(hidden), KVCache(layers=tuple(layers), mask=counts, used=cache.used + num_new)

    def _read(self, row, mask, *, num_states: int, key) -> Float[Array, "batch position model"]:
        """Returns the normed states of the last `num_states` tokens of a row."""
        self._check_length(row.shape[1])
        positions = _positions(mask)
        visible = _visible(mask, start=jnp.zeros((), jnp.int32), num_rows=row.shape[1])
        reading = Reading(rotation=self._rotation(positions), visible=visible)
        enter_key, *layer_keys = split_key(key, 1 + len(self.layers))
        with jax.named_scope(type(self).__name__.lower()):
            hidden = self._enter(row, positions, key=enter_key)

            def call(layer: Any, hidden: Any, key: Any) -> Any:
                return self.calls.inside(layer)(hidden, reading=reading, cached=None, key=key)[0]

            hidden = self.calls.through(self.layers[:-1], hidden, keys=layer_keys[:-1], call=call)
            # Of the last layer only these states are used: the prompt's are keys and values there, no more.
            reading = dataclasses.replace(reading, visible=visible[:, -num_states:])
            return self.final_norm(call(self.layers[-1], hidden, layer_keys[-1]))

    def _read_after(self, prompt, mask, queries, *, key) -> Float[Array, "batch position model"]:
        """Returns the normed states of the queries of all rows after the one prompt that they share."""
        num_rows, num_new, length = *queries.shape[:2], prompt.shape[1]
        self._check_length(length + num_new)
        positions = _positions(mask)
        # Room behind the prompt's keys and values for those of the queries, as in `decode`.
        counts = jnp.concatenate([mask, jnp.ones((1, num_new), bool)], axis=1)
        start = jnp.array(length, jnp.int32)
        prompt_reading = Reading(
            rotation=self._rotation(positions),
            visible=_visible(mask, start=jnp.zeros((), jnp.int32), num_rows=length),
        )
        query_positions = jnp.sum(mask, axis=1, dtype=jnp.int32)[:, None] + jnp.arange(num_new)[None]
        query_reading = Reading(
            rotation=self._rotation(query_positions),
            visible=_visible(counts, start=start, num_rows=num_new),
            start=start,
        )
        slots = (num_rows, length + num_new)
        prompt_key, query_key, *layer_keys = split_key(key, 2 + 2 * len(self.layers))

        def call(plain_layer: Any, carry: Any, keys: Any) -> Any:
            read, hidden = carry
            read, key_value = self.calls.inside(plain_layer)(read, reading=prompt_reading, cached=None, key=keys[0])

            # Inside, so that the copies for all rows are made again where activations are, not kept.
            def after_prompt(hidden: Any, **others: Any) -> Any:
                room = (jnp.pad(x, ((0, 0), (0, num_new), (0, 0), (0, 0))) for x in key_value)
                cached = tuple(jnp.broadcast_to(x, (*slots, *x.shape[2:])) for x in room)
                return plain_layer(hidden, cached=cached, **others)

            hidden, _ = self.calls.inside(after_prompt)(hidden, reading=query_reading, key=keys[1])
            return read, hidden

        with jax.named_scope(type(self).__name__.lower()):
            read = self._enter(prompt, positions, key=prompt_key)
            hidden = self._enter(queries, query_positions, key=query_key)
            keys = list(zip(layer_keys[::2], layer_keys[1::2], strict=True))
            _, hidden = self.calls.through(self.layers, (read, hidden), keys=keys, call=call)
            return self.final_norm(hidden)

    def _check_length(self, length: int) -> None:
        if length > self.config.max_positions:
            raise ConfigError(
                f"prompts take {length} positions, {length - self.config.max_positions} more than the "
                f"{self.config.max_positions} of the language model; lower data.max_history"
            )

    def _enter(self, embedded, positions, *, key):
        """Returns the input of the first layer."""
        raise NotImplementedError

    def _rotation(self, positions) -> Rotation | None:
        """Returns what turns queries and keys."""
        raise NotImplementedError


def _positions(mask: Bool[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Returns the number of real tokens before each token; for padding some valid position."""
    return jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)


def _visible(
    mask: Bool[Array, "batch slot"], *, start: Int[Array, ""], num_rows: int
) -> Bool[Array, "batch {num_rows} slot"]:
    """Returns which slots the tokens in slots start .. start + num_rows - 1 see: real ones up to their own."""
    own = start + jnp.arange(num_rows)
    causal = jnp.arange(mask.shape[1])[None, :] <= own[:, None]
    return causal[None] & mask[:, None, :]
