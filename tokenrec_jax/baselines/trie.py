"""Item sequences of tokens as a trie of arrays, and the exact steps of a beam through it. Read `build_trie`, `advance`.

A generator of items may only write sequences that are items. Here the allowed continuations of a prefix are a row of a
table on the device, so that a beam search of fixed depth is a handful of gathers and one `top_k` a level. Nothing in
here knows what scores the tokens; see `tiger.py`.
"""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.types import PADDING, DataError


# Passes through tree functions, see `types.py`.
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrieLevel:
    """Where one can go from the prefixes of one length.

    Attributes:
      token: next tokens of each prefix, ascending, right-padded with `PADDING`.
      child: the prefix that each leads to, a row of the next level; from the last level on, an item id.
    """

    token: Int[Any, "prefix branch"]
    child: Int[Any, "prefix branch"]


# Passes through tree functions, see `types.py`.
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beam:
    """The best prefixes of each row so far, best first.

    Attributes:
      prefix: row of the level that comes next, or item id at the end; `PADDING` where there are fewer.
      score: sum of what its tokens scored, -inf where `prefix` is `PADDING`.
      token: its last token; 0 where `prefix` is `PADDING`.
      parent: place in the previous beam that it continues.
    """

    prefix: Int[Any, "batch beam"]
    score: Float[Any, "batch beam"]
    token: Int[Any, "batch beam"]
    parent: Int[Any, "batch beam"]


def build_trie(sequences: Int[np.ndarray, "items width"]) -> tuple[TrieLevel, ...]:
    """Returns one level for each place of the sequences.

    Args:
      sequences: tokens of each item, all of one length; no two items may have the same.

    Raises:
      DataError: two items have the same sequence.
    """
    order = np.lexsort(sequences.T[::-1])
    ordered = sequences[order]
    # differs[i, d]: the first d + 1 tokens of the i-th sequence are not those of the one before it.
    differs = np.ones(ordered.shape, bool)
    differs[1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
    if not differs[:, -1].all():
        at = int(np.argmin(differs[:, -1]))
        raise DataError(f"items {order[at - 1]} and {order[at]} have the same tokens {ordered[at].tolist()}; none may")
    levels = []
    # The rows of a level, and the prefix that each sequence starts with.
    parent_of = np.zeros(len(ordered), np.int64)
    for depth in range(ordered.shape[1]):
        first = np.flatnonzero(differs[:, depth])
        parent = parent_of[first]
        counts = np.bincount(parent)
        rank = np.arange(len(first)) - (np.cumsum(counts) - counts)[parent]
        token = np.full((len(counts), counts.max()), PADDING, np.int32)
        child = token.copy()
        token[parent, rank] = ordered[first, depth]
        last = depth == ordered.shape[1] - 1
        child[parent, rank] = order if last else np.arange(len(first))
        levels.append(TrieLevel(token=token, child=child))
        parent_of = np.cumsum(differs[:, depth]) - 1
    return tuple(levels)


def start(batch: int) -> Beam:
    """Returns the beam that holds the empty prefix only."""
    zeros = jnp.zeros((batch, 1), jnp.int32)
    return Beam(prefix=zeros, score=jnp.zeros((batch, 1)), token=zeros, parent=zeros)


def advance(
    beam: Beam,
    level: TrieLevel,
    scores: Float[Array, "batch beam token"],
    *,
    width: int,
    allowed: Bool[Array, "batch items"] | None = None,
) -> Beam:
    """Returns the `width` best continuations of a beam by one token, fewer where the trie has fewer.

    Args:
      beam: prefixes whose next tokens are in `level`.
      level: of the trie.
      scores: of every token after each prefix, which are added to the prefix's.
      width: how many to keep.
      allowed: at the last level, False for items that may not be written. None: all may.
    """
    batch, beams = beam.prefix.shape
    row = jnp.maximum(beam.prefix, 0)
    token, child = level.token[row], level.child[row]
    score = jnp.take_along_axis(scores, jnp.maximum(token, 0), axis=2) + beam.score[:, :, None]
    exists = (child != PADDING) & (beam.prefix != PADDING)[:, :, None]
    if allowed is not None:
        flat = jnp.maximum(child, 0).reshape(batch, -1)
        exists &= jnp.take_along_axis(allowed, flat, axis=1).reshape(child.shape)
    score = jnp.where(exists, score, -jnp.inf).reshape(batch, -1)
    best, at = jax.lax.top_k(score, min(width, score.shape[1]))
    found = jnp.take_along_axis(exists.reshape(batch, -1), at, axis=1)

    def chosen(values: Int[Array, "batch beam branch"], *, otherwise: int) -> Int[Array, "batch width"]:
        return jnp.where(found, jnp.take_along_axis(values.reshape(batch, -1), at, axis=1), otherwise)

    return Beam(
        prefix=chosen(child, otherwise=PADDING),
        score=best,
        token=chosen(token, otherwise=0),
        parent=jnp.where(found, at // (score.shape[1] // beams), 0),
    )
