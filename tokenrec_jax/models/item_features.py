"""What is known of items besides who interacted with them, as learned vectors. Read `ItemFeatures`.

Which values there are is in `data/features.py`; how text becomes a vector in `training/item_text.py`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tokenrec_jax.partitioned import map_rows, take_rows
from tokenrec_jax.types import PADDING

#: Standard deviation of the first item-space vectors: against unit vectors of the graph they hardly count.
INIT_STD = 0.01
#: Elements of the largest table of counts that a device makes of items, values a row.
COUNTS_AT_ONCE = 1 << 27


class ItemFeatures(nnx.Module):
    """The content of items, categorical values and text: one vector in the item space and one at the input.

    Both are sums. Content stands beside the collaborative vector of an item, and in its place where there is none: see
    `TokenRec.item_space`.
    """

    def __init__(self, *, num_values: int, text_dim: int, dim: int, hidden_size: int, rngs: nnx.Rngs):
        """Makes vectors for `num_values` values and maps for text vectors of size `text_dim`; 0 for none of a kind."""
        small = nnx.initializers.normal(INIT_STD)
        if num_values:
            self.value_space = nnx.Param(small(rngs.params(), (num_values, dim)))
            tokens = nnx.initializers.normal(hidden_size**-0.5)
            self.value_tokens = nnx.Param(tokens(rngs.params(), (num_values, hidden_size)))
        if text_dim:
            self.text_space = nnx.Linear(text_dim, dim, use_bias=False, kernel_init=small, rngs=rngs)
            self.text_input = nnx.Linear(text_dim, hidden_size, use_bias=False, rngs=rngs)

    def init_inputs(self, scale: Float[Array, ""], *, value_key: Array, text_key: Array) -> None:
        """Starts the input vectors anew, with `scale` as the standard deviation of their elements."""
        if hasattr(self, "value_tokens"):
            self.value_tokens[...] = scale * jax.random.normal(value_key, self.value_tokens.shape)
        if hasattr(self, "text_input"):
            shape = self.text_input.kernel.shape
            self.text_input.kernel[...] = scale * shape[0] ** -0.5 * jax.random.normal(text_key, shape)

    def in_space(
        self, values: Int[Array, "items width"] | None, text: Float[Array, "items text"] | None
    ) -> Float[Array, "items emb"]:
        """Returns the content of items in the item space.

        Args:
          values: numbers of values, right-padded with `PADDING`, cut along `ROW_AXES`; None for a model without.
          text: text vectors; None for a model without.
        """
        parts = []
        if values is not None:
            vectors = self.value_space[...]
            # Made again in the backward pass of a part; where all items are one part, both are one for the compiler.
            sums = jax.checkpoint(_sum_of_rows, prevent_cse=False)
            parts.append(map_rows(sums, values, vectors, at_once=max(1, COUNTS_AT_ONCE // len(vectors))))
        if text is not None:
            parts.append(self.text_space(text))
        return functools.reduce(jnp.add, parts)

    def at_input(
        self, values: Int[Array, "batch history width"] | None, text: Float[Array, "batch history text"] | None
    ) -> Float[Array, "batch history model"]:
        """Returns the content of histories' items as a language model reads it: of values the mean, not the sum."""
        parts = []
        if values is not None:
            count = jnp.sum(values != PADDING, axis=-1, keepdims=True)
            parts.append(_sum_of_rows(values, self.value_tokens[...]) / jnp.maximum(count, 1))
        if text is not None:
            parts.append(self.text_input(text))
        return functools.reduce(jnp.add, parts)


def rows_of(
    table: Int[Array, "items width"] | Float[Array, "items width"], history: Int[Array, "batch history"]
) -> Array:
    """Returns the rows of the items of histories; those of item 0 at padding."""
    return take_rows(table, jnp.maximum(history, 0))


def _sum_of_rows(index: Int[Array, "*batch width"], vectors: Float[Array, "values dim"]) -> Float[Array, "*batch dim"]:
    """Returns the sum of the rows that each list names, as a product with a table of counts.

    There are few values: the product and its gradient are matrix multiplications, where a gather's gradient is a
    scatter, one row after another.
    """
    # No number is that of padding, whose row is zero. A column at a time, so that no table has a row a column.
    columns = (
        jax.nn.one_hot(index[..., column], len(vectors), dtype=vectors.dtype) for column in range(index.shape[-1])
    )
    return functools.reduce(jnp.add, columns) @ vectors
