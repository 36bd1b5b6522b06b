"""The token embedding as a table that grows: rows for tokens that a pretrained model has never seen.

Which token stands in which row is told by `data/vocabulary.py`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from tokenrec_jax.types import ConfigError

#: The vocabulary grows to multiples of this, so that its matrix fills the tiles of TPUs and can be sharded.
VOCABULARY_MULTIPLE = 128


def grow_vocabulary(
    model: Any, num_rows: int, *, key: Key[Array, ""], vectors: Float[Array, "rows model"] | None = None
) -> None:
    """Grows the token embedding and an untied head of a model, in place, to at least `num_rows` rows.

    The old rows stay. The number of rows becomes a multiple of `VOCABULARY_MULTIPLE`. New rows are drawn from a
    normal distribution around 0 with the standard deviation of the old ones, so that new tokens enter as loud as
    known ones.

    Args:
      model: has `token_embedding`, `lm_head` (or None there) and a data class `config` with `vocab_size`.
      num_rows: rows that are needed, old ones included.
      key: random key of the new rows.
      vectors: values of the first new rows of the token embedding, instead of drawn ones.

    Raises:
      ValueError: more `vectors` than new rows.
    """
    old_rows = model.config.vocab_size
    needed = max(num_rows, old_rows)
    rows = -(-needed // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    if vectors is not None and len(vectors) > rows - old_rows:
        raise ValueError(f"vectors has {len(vectors)} rows; allowed: at most {rows - old_rows} new ones")
    embedding_key, head_key = jax.random.split(key)
    embedding = _with_rows(model.token_embedding[...], rows, key=embedding_key)
    if vectors is not None:
        embedding = embedding.at[old_rows : old_rows + len(vectors)].set(vectors.astype(embedding.dtype))
    model.token_embedding = nnx.Param(embedding)
    if model.lm_head is not None:
        model.lm_head = nnx.Param(_with_rows(model.lm_head[...], rows, key=head_key))
    model.config = dataclasses.replace(model.config, vocab_size=rows)


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
