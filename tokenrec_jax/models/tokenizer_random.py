"""Codes that say nothing: what the learned ones are compared with. Read `RandomTokenizer`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tokenrec_jax.config import TokenizerConfig
from tokenrec_jax.models.buffer import Buffer
from tokenrec_jax.models.tokenizer_base import Tokenizer, TokenizerOutput, make_output


class RandomTokenizer(Tokenizer):
    """Codes by a hash of the bits of a vector: the same vector has the same codes, near ones have nothing in common.

    Code vectors are Gaussian; nothing is trained.
    """

    codes_follow = False

    def __init__(self, config: TokenizerConfig, *, dim: int):
        super().__init__(config, dim=dim, code_dim=dim, codebook_type=Buffer)

    def encode(self, vectors: Float[Array, "batch emb"]) -> Int[Array, "batch book"]:
        """Returns the codes of collaborative embeddings; see `Tokenizer.encode`."""
        bits = jax.lax.bitcast_convert_type(vectors.astype(jnp.float32), jnp.uint32)
        books = jnp.arange(1, self.config.num_books + 1, dtype=jnp.uint32)
        mixed = _mix(bits[:, None] + books[None, :, None] * jnp.uint32(0x9E3779B9))
        places = jnp.arange(1, vectors.shape[1] + 1, dtype=jnp.uint32)
        hashed = _mix(jnp.sum(mixed * (2 * places + 1)[None, None], axis=-1, dtype=jnp.uint32))
        return (hashed % jnp.uint32(self.config.book_size)).astype(jnp.int32)

    def decode(self, codes: Int[Array, "batch book"]) -> Float[Array, "batch emb"]:
        """Returns the mean of all vectors, which is all that can be said; see `Tokenizer.decode`."""
        return self._restore(jnp.zeros((codes.shape[0], self.mean.shape[0])))

    def loss(self, vectors: Float[Array, "batch emb"], *, key: PRNGKeyArray) -> TokenizerOutput:
        """Returns the error of a batch for the record; it depends on no parameter and on no `key`."""
        del key
        codes = self.encode(vectors)
        target = self._standardise(vectors)
        nothing = jnp.zeros((*codes.shape, target.shape[1]))
        return make_output(
            self.config,
            target=target,
            decoded=jnp.zeros_like(target),
            encoded=nothing,
            quantized=nothing,
            codes=codes,
        )

    def initialize(self, vectors: Float[Array, "rows emb"], *, key: PRNGKeyArray) -> None:
        """Fits the standardisation and draws the code vectors; see `Tokenizer.initialize`."""
        self._fit_standardisation(vectors)
        self.codebooks[...] = jax.random.normal(key, self.codebooks.shape)

    def revive(self, output: TokenizerOutput, *, key: PRNGKeyArray) -> None:
        """Does nothing: no code is ever dead."""


def _mix(words: Array) -> Array:
    """Returns words of 32 bits whose bits all depend on all bits of those given.

    Source: the finalizer of MurmurHash3 (Austin Appleby, public domain).
    """
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
