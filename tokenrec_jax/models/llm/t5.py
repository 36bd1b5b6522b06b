"""T5 and T5 v1.1, an encoder-decoder with relative positions and a vocabulary that can grow.

Read `T5` first. Its parts are in `t5_layers.py`, its shape in `t5_config.py`, pretrained weights come through
`hf_weights.py`. No text generation and no loss here.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from tokenrec_jax.models.llm.layer_calls import UNROLLED, LayerCalls
from tokenrec_jax.models.llm.t5_config import T5Config
from tokenrec_jax.models.llm.t5_layers import (
    Attention,
    Dropout,
    FeedForward,
    RelativeBias,
    RMSNorm,
    mask_bias,
    split_key,
)
from tokenrec_jax.models.llm.vocabulary_rows import TokenTables

_SelfBiases = tuple[Float[Array, "#batch #head #position position"], ...]
_CrossBiases = tuple[Float[Array, "prompt 1 1 length"], ...]


class T5(TokenTables):
    """Encoder, decoder and one token embedding for both; a `LanguageModel`.

    Initial weights are T5's own, which replace the usual 1 / sqrt(head_dim) of attention scores: see
    `Attention`.

    Source: Raffel et al., 2020.

    Attributes:
      dtype: type of activations. Parameters, scores, softmax, norms and logits are float32.
      encoder: stack that reads the prompt.
      decoder: causal stack that also attends to the encoder.
    """

    def __init__(
        self,
        config: T5Config,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        dropout_rate: float | None = None,
        calls: LayerCalls = UNROLLED,
    ):
        if dropout_rate is not None:
            config = dataclasses.replace(config, dropout_rate=dropout_rate)
        super().__init__(config, std=config.initializer_factor, rngs=rngs, dtype=dtype)
        self.encoder = T5Stack(config, is_decoder=False, rngs=rngs, dtype=self.dtype, calls=calls)
        self.decoder = T5Stack(config, is_decoder=True, rngs=rngs, dtype=self.dtype, calls=calls)

    def encode(
        self,
        inputs_embeds: Float[Array, "batch length model"],
        mask: Bool[Array, "batch length"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length model"]:
        """Returns the encoder's hidden states; those at positions that are False in `mask` mean nothing.

        Args:
          inputs_embeds: what `embed` returns, possibly with more added.
          mask: True where a position counts.
          key: dropout key, or None for no dropout.
        """
        with jax.named_scope("t5_encoder"):
            return self.encoder(inputs_embeds.astype(self.dtype), mask=mask, key=key)

    def decode(
        self,
        inputs_embeds: Float[Array, "batch position model"],
        *,
        encoder_hidden: Float[Array, "prompt length model"],
        encoder_mask: Bool[Array, "prompt length"],
        mask: Bool[Array, "batch position"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch position model"]:
        """Returns the decoder's hidden states; position p sees positions 0 .. p and the whole encoder.

        Args:
          inputs_embeds: embeddings of the decoder's tokens.
          encoder_hidden: what `encode` returned, for each row or one for all rows.
          encoder_mask: the mask that it was given.
          mask: True where a decoder position counts; None: all do.
          key: dropout key, or None for no dropout.
        """
        with jax.named_scope("t5_decoder"):
            return self.decoder(
                inputs_embeds.astype(self.dtype),
                mask=mask,
                encoder_hidden=encoder_hidden.astype(self.dtype),
                encoder_mask=encoder_mask,
                key=key,
            )

    def hidden_states(
        self,
        inputs_embeds: Float[Array, "prompt length model"],
        mask: Bool[Array, "prompt length"],
        *,
        query_embeds: Float[Array, "batch position model"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch position model"]:
        """Encodes prompts, one a row or one for all, and decodes `query_embeds`: `encode`, then `decode`."""
        encoder_key, decoder_key = split_key(key, 2)
        hidden = self.encode(inputs_embeds, mask, key=encoder_key)
        return self.decode(query_embeds, encoder_hidden=hidden, encoder_mask=mask, key=decoder_key)

    def logits(self, hidden: Float[Array, "batch position model"]) -> Float[Array, "batch position vocabulary"]:
        """Returns the score of each token after each decoder position, float32."""
        return super().logits(hidden * self.config.model_dim**-0.5 if self.config.scale_logits else hidden)

    def __call__(
        self,
        input_ids: Int[Array, "batch length"],
        attention_mask: Bool[Array, "batch length"] | None = None,
        *,
        decoder_input_ids: Int[Array, "batch position"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch position model"]:
        """Returns the decoder's last hidden states for token ids; `attention_mask` None: all count."""
        if attention_mask is None:
            attention_mask = jnp.ones(input_ids.shape, bool)
        queries = self.embed(decoder_input_ids)
        return self.hidden_states(self.embed(input_ids), attention_mask, query_embeds=queries, key=key)


class T5Stack(nnx.Module):
    """Pre-norm layers with residuals that share one relative position bias; the encoder or the decoder."""

    def __init__(self, config: T5Config, *, is_decoder: bool, rngs: nnx.Rngs, dtype: Any, calls: LayerCalls):
        factor = config.initializer_factor
        self.is_decoder = is_decoder
        self.calls = calls
        self.dropout = Dropout(config.dropout_rate, config.dropout_each_position)
        self.relative_bias = RelativeBias(
            config.num_heads,
            num_buckets=config.num_buckets,
            max_distance=config.max_distance,
            std=factor * config.model_dim**-0.5,
            rngs=rngs,
        )
        num_layers = config.num_decoder_layers if is_decoder else config.num_encoder_layers
        self.layers = nnx.List(
            [T5Layer(config, is_decoder=is_decoder, rngs=rngs, dtype=dtype) for _ in range(num_layers)]
        )
        self.final_norm = RMSNorm(config.model_dim, epsilon=config.norm_epsilon, scale=factor)

    def __call__(
        self,
        inputs_embeds: Float[Array, "batch position model"],
        *,
        mask: Bool[Array, "batch position"] | None,
        encoder_hidden: Float[Array, "prompt length model"] | None = None,
        encoder_mask: Bool[Array, "prompt length"] | None = None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch position model"]:
        """Returns the normed hidden states; `encoder_hidden` and `encoder_mask` are for the decoder only."""
        first_key, last_key, *layer_keys = split_key(key, 2 + len(self.layers))
        biases: _SelfBiases = (self.relative_bias(inputs_embeds.shape[1], causal=self.is_decoder),)
        if mask is not None:
            biases += (mask_bias(mask),)
        cross_biases: _CrossBiases = () if encoder_mask is None else (mask_bias(encoder_mask),)
        hidden = self.dropout(inputs_embeds, key=first_key)

        def call(layer: Any, hidden: Any, key: Any) -> Any:
            return self.calls.inside(layer)(
                hidden, biases=biases, encoder_hidden=encoder_hidden, cross_biases=cross_biases, key=key
            )

        hidden = self.calls.through(self.layers, hidden, keys=layer_keys, call=call)
        return self.dropout(self.final_norm(hidden), key=last_key)


class T5Layer(nnx.Module):
    """Self-attention, in the decoder cross-attention, and feed-forward: x + dropout(part(norm(x))) each."""

    def __init__(self, config: T5Config, *, is_decoder: bool, rngs: nnx.Rngs, dtype: Any):
        factor = config.initializer_factor

        def norm() -> RMSNorm:
            return RMSNorm(config.model_dim, epsilon=config.norm_epsilon, scale=factor)

        def attention() -> Attention:
            return Attention(
                config.model_dim,
                num_heads=config.num_heads,
                head_dim=config.head_dim,
                factor=factor,
                rngs=rngs,
                dtype=dtype,
            )

        self.dropout = Dropout(config.dropout_rate, config.dropout_each_position)
        self.self_attention_norm = norm()
        self.self_attention = attention()
        self.cross_attention_norm = norm() if is_decoder else None
        self.cross_attention = attention() if is_decoder else None
        self.feed_forward_norm = norm()
        self.feed_forward = FeedForward(
            config.model_dim,
            hidden_dim=config.feed_forward_dim,
            gated=config.gated,
            factor=factor,
            rngs=rngs,
            dtype=dtype,
        )

    def __call__(
        self,
        hidden: Float[Array, "batch position model"],
        *,
        biases: _SelfBiases,
        encoder_hidden: Float[Array, "prompt length model"] | None,
        cross_biases: _CrossBiases,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch position model"]:
        """Returns the hidden states after this layer."""
        keys, dropout = split_key(key, 6), self.dropout
        normed = self.self_attention_norm(hidden)
        out = self.self_attention(normed, source=normed, biases=biases, dropout=dropout, key=keys[0])
        hidden = hidden + dropout(out, key=keys[1])
        if self.cross_attention is not None and self.cross_attention_norm is not None and encoder_hidden is not None:
            normed = self.cross_attention_norm(hidden)
            out = self.cross_attention(normed, source=encoder_hidden, biases=cross_biases, dropout=dropout, key=keys[2])
            hidden = hidden + dropout(out, key=keys[3])
        out = self.feed_forward(self.feed_forward_norm(hidden), dropout=dropout, key=keys[4])
        return hidden + dropout(out, key=keys[5])
