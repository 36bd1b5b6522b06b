"""The token embedding as a table that grows: rows for tokens that a pretrained model has never seen.

Which token stands in which row is told by `data/vocabulary.py`. Read `TokenTables`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from tokenrec_jax.numerics import round_up
from tokenrec_jax.types import ConfigError

#: The vocabulary grows to multiples of this, so that its matrix fills the tiles of TPUs and can be sharded.
VOCABULARY_MULTIPLE = 128


class TokenTables(nnx.Module):
    """What all families do alike with their tokens: look them up, score them, add to them.

    Attributes:
      config: shape of the model, with `vocab_size`, `model_dim` and `tied_head`; follows `extend_vocabulary`.
      dtype: type of activations. Parameters and logits are float32.
      token_embedding: [vocabulary, model].
      lm_head: [vocabulary, model], or None if the token embedding is used instead.
    """

    def __init__(self, config: Any, *, std: float, rngs: nnx.Rngs, dtype: Any):
        """Draws tables with the standard deviation `std`."""
        self.config = config
        self.dtype = jnp.dtype(dtype)
        shape = (config.vocab_size, config.model_dim)

        def table() -> nnx.Param:
            return nnx.Param(std * jax.random.normal(rngs.params(), shape))

        self.token_embedding = table()
        self.lm_head = None if config.tied_head else table()

    @property
    def hidden_size(self) -> int:
        """Size of embeddings and hidden states."""
        return self.config.model_dim

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.config.vocab_size

    def embed(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape model"]:
        """Returns the input embedding of each token, without its position."""
        return self.token_embedding[...][tokens].astype(self.dtype)

    def logits(self, hidden: Float[Array, "batch position model"]) -> Float[Array, "batch position vocabulary"]:
        """Returns the score of each token after each position, float32."""
        head = self.token_embedding if self.lm_head is None else self.lm_head
        weights = head[...].astype(self.dtype)
        return jnp.einsum("bpm,vm->bpv", hidden, weights, preferred_element_type=jnp.float32)

    def extend_vocabulary(
        self, num_rows: int, *, key: Key[Array, ""], vectors: Float[Array, "rows model"] | None = None
    ) -> None:
        """Grows the token embedding and an untied head, in place, to at least `num_rows` rows.

        The old rows stay. The number of rows becomes a multiple of `VOCABULARY_MULTIPLE`. New rows are drawn from a
        normal distribution around 0 with the standard deviation of the old ones, so that new tokens enter as loud as
        known ones.

        Args:
          num_rows: rows that are needed, old ones included.
          key: random key of the new rows.
          vectors: values of the first new rows of the token embedding, instead of drawn ones.

        Raises:
          ValueError: more `vectors` than new rows.
        """
        old_rows = self.vocab_size
        rows = round_up(max(num_rows, old_rows), multiple=VOCABULARY_MULTIPLE)
        if vectors is not None and len(vectors) > rows - old_rows:
            raise ValueError(f"vectors has {len(vectors)} rows; allowed: at most {rows - old_rows} new ones")
        embedding_key, head_key = jax.random.split(key)
        embedding = _with_rows(self.token_embedding[...], rows, key=embedding_key)
        if vectors is not None:
            embedding = embedding.at[old_rows : old_rows + len(vectors)].set(vectors.astype(embedding.dtype))
        self.token_embedding = nnx.Param(embedding)
        if self.lm_head is not None:
            self.lm_head = nnx.Param(_with_rows(self.lm_head[...], rows, key=head_key))
        self.config = dataclasses.replace(self.config, vocab_size=rows)


def check_vocabulary(tokenizer_size: int, rows: int) -> None:
    """Raises `ConfigError` if a tokenizer makes ids that a token embedding of `rows` has no row for."""
    if tokenizer_size > rows:
        raise ConfigError(
            f"llm.tokenizer has {tokenizer_size} tokens, llm.name has rows for {rows}; give the "
            "tokenizer that the model was trained with, or add rows (extend_vocabulary)"
        )


def _with_rows(table: Float[Array, "old model"], rows: int, *, key: Key[Array, ""]) -> Float[Array, "new model"]:
    """Returns the table with drawn rows below it, `rows` in all."""
    shape = (rows - table.shape[0], table.shape[1])
    return jnp.concatenate([table, jnp.std(table) * jax.random.normal(key, shape, table.dtype)])
