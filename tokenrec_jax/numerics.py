"""Numerical helpers that models, losses and retrieval share and that know nothing of any of them.

What needs a word of the glossary in its name (users, items, codes) belongs to a layer above, not here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Squared length at and below which a vector counts as zero: far under any trained vector, far over the
#: smallest normal float32, so that neither the division nor its gradient overflows.
_ZERO_SQUARE = 1e-24


def normalize(vectors: Float[Array, "*rows emb"]) -> Float[Array, "*rows emb"]:
    """Scales vectors along the last axis to Euclidean length 1.

    A zero vector stays zero and has gradient zero. The length is computed in float32; the result has the type
    of the argument.
    """
    wide = vectors.astype(jnp.float32)
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    is_zero = square <= _ZERO_SQUARE
    # Both branches of a `where` are differentiated: rsqrt must not see the zero, or its gradient is NaN.
    scale = jnp.where(is_zero, 0.0, jax.lax.rsqrt(jnp.where(is_zero, 1.0, square)))
    return (wide * scale).astype(vectors.dtype)


def round_up(count: int, *, multiple: int) -> int:
    """Returns the smallest multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple
