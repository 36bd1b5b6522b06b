"""The types that item vectors are searched in. Read `encode`.

float32   exact.
bfloat16  half the memory; items are rounded to 8 bits of precision, queries and sums are not.
int8      a quarter of the bytes that a search reads: each row is divided by a 127th of its largest element and
rounded. The best candidates are ranked again by the float32 vectors, which are kept beside: what is
returned has exact scores, and an item is only missed when rounding moves it behind all candidates. The
kept rows cost memory but are read for candidates alone; of an index that is mapped from a file they stay
in the file.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

Metric = Literal["cosine", "dot"]
Storage = Literal["float32", "bfloat16", "int8"]


class Rows(NamedTuple):
    """The arrays of an index that have one row an item; see `ItemIndex`."""

    vectors: Num[Array, "items emb"]
    scale: Float[Array, " items"] | None = None
    exact: Float[Array, "items emb"] | None = None


def encode(vectors: Float[Array, "items emb"], storage: str) -> Rows:
    """Returns vectors in a storage."""
    if storage == "int8":
        largest = jnp.max(jnp.abs(vectors), axis=1)
        scale = jnp.where(largest > 0, largest / 127, 1).astype(jnp.float32)
        return Rows(jnp.round(vectors / scale[:, None]).astype(jnp.int8), scale, vectors.astype(jnp.float32))
    # Vectors that come in a narrower type than float32 are not made wider.
    return Rows(vectors.astype(jnp.bfloat16) if storage == "bfloat16" else vectors)


def name_of(rows: Rows) -> Storage:
    """Returns the storage of rows."""
    if rows.vectors.dtype == jnp.int8:
        return "int8"
    return "bfloat16" if rows.vectors.dtype == jnp.bfloat16 else "float32"
