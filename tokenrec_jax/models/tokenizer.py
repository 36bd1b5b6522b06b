"""The masked vector-quantized tokenizer of the paper, and `build_tokenizer`, which knows all kinds.

Read `MaskedVQTokenizer.loss` first: it is the method. The interface and what all kinds share are in
`tokenizer_base.py`, the residual kinds in `tokenizer_residual.py`, nearest codes and the straight-through
gradient in `quantization.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tokenrec_jax.config import TOKENIZER_KINDS, TokenizerConfig
from tokenrec_jax.models import quantization
from tokenrec_jax.models.buffer import Buffer
from tokenrec_jax.models.kmeans import fit_kmeans
from tokenrec_jax.models.stacked_mlp import MOMENTUM, StackedMLP
from tokenrec_jax.models.tokenizer_base import Tokenizer, TokenizerOutput, make_output, mask_elements
from tokenrec_jax.models.tokenizer_random import RandomTokenizer
from tokenrec_jax.models.tokenizer_residual import KMeansTokenizer, ResidualVQTokenizer
from tokenrec_jax.types import ConfigError


def build_tokenizer(config: TokenizerConfig, *, dim: int, rngs: nnx.Rngs) -> Tokenizer:
    """Returns an untrained tokenizer of the configured kind.

    Args:
      config: kind and sizes.
      dim: size of the collaborative embeddings.
      rngs: stream `params`, read here only.

    Raises:
      ConfigError: a field of the config is out of range.
    """
    _check(config, dim=dim)
    kind: Any = tokenizer_type(config)
    trained = kind in (MaskedVQTokenizer, ResidualVQTokenizer)
    return kind(config, dim=dim, rngs=rngs) if trained else kind(config, dim=dim)


def tokenizer_type(config: TokenizerConfig) -> type[Tokenizer]:
    """Returns the class of the configured kind, whose class attributes hold before anything is built."""
    kinds: dict[str, type[Tokenizer]] = {
        "masked_vq": MaskedVQTokenizer,
        "residual_vq": ResidualVQTokenizer,
        "kmeans": KMeansTokenizer,
        "random": RandomTokenizer,
    }
    return kinds[config.kind]


class MaskedVQTokenizer(Tokenizer):
    """K encoders, each with a book of its own; the mean of the K chosen code vectors is decoded.

    Source: TokenRec §IV-B.
    Differs: with `config.distinct_views` each encoder reads its own share of the principal directions of the
      vectors (`principal_views`) instead of all of them; `revive` moves dead codes; input and target are
      standardised.
    """

    def __init__(self, config: TokenizerConfig, *, dim: int, rngs: nnx.Rngs):
        super().__init__(config, dim=dim, code_dim=config.code_dim)
        dims = (dim, *config.hidden_dims, config.code_dim)
        self.views = Buffer(jnp.tile(jnp.eye(dim)[None], (config.num_books, 1, 1)))
        self.encoders = StackedMLP(config.num_books, dims, dropout=config.dropout, rngs=rngs)
        self.decoder = StackedMLP(1, dims[::-1], dropout=config.dropout, rngs=rngs)

    def encode(self, vectors: Float[Array, "batch emb"]) -> Int[Array, "batch book"]:
        """Returns the codes of collaborative embeddings; see `Tokenizer.encode`."""
        encoded = self._encode(self._standardise(vectors), training=False)
        return quantization.nearest_codes(encoded, self.codebooks[...])

    def decode(self, codes: Int[Array, "batch book"]) -> Float[Array, "batch emb"]:
        """Returns the collaborative embeddings that codes stand for; see `Tokenizer.decode`."""
        quantized = quantization.look_up(self.codebooks[...], codes)
        return self._restore(self._decode(quantized, training=False))

    def loss(self, vectors: Float[Array, "batch emb"], *, key: PRNGKeyArray) -> TokenizerOutput:
        """Returns the training loss of a batch: reconstruct the whole vector from codes of a masked one.

        The mask is drawn for each row and element and shared by the encoders, as in the paper: what is hidden
        from one book is hidden from all.
        """
        mask_key, encoder_key, decoder_key = jax.random.split(key, 3)
        target = self._standardise(vectors)
        masked = mask_elements(target, mask_ratio=self.config.mask_ratio, key=mask_key)
        encoded = self._encode(masked, training=True, key=encoder_key)
        codes = quantization.nearest_codes(encoded, self.codebooks[...])
        quantized = quantization.look_up(self.codebooks[...], codes)
        decoded = self._decode(quantization.straight_through(encoded, quantized), training=True, key=decoder_key)
        return make_output(
            self.config, target=target, decoded=decoded, encoded=encoded, quantized=quantized, codes=codes
        )

    def initialize(self, vectors: Float[Array, "rows emb"], *, key: PRNGKeyArray) -> None:
        """Fits standardisation, views, batch norm and books to the table; see `Tokenizer.initialize`."""
        sample_key, kmeans_key = jax.random.split(key)
        self._fit_standardisation(vectors)
        sample = self._sample(vectors, key=sample_key)
        if self.config.distinct_views:
            self.views[...] = principal_views(sample, num_books=self.config.num_books)
        encoded = self._encode(sample, training=True, momentum=0.0)
        self.codebooks[...] = fit_kmeans(
            jnp.moveaxis(encoded, 1, 0),
            num_centers=self.config.book_size,
            iterations=self.config.kmeans_iterations,
            key=kmeans_key,
        )
        codes = quantization.nearest_codes(encoded, self.codebooks[...])
        self._decode(quantization.look_up(self.codebooks[...], codes), training=True, momentum=0.0)

    def _encode(
        self,
        standardised: Float[Array, "batch emb"],
        *,
        training: bool,
        momentum: float = MOMENTUM,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch book dim"]:
        seen = jnp.einsum("bi,kij->bkj", standardised, self.views[...])
        return self.encoders(seen, training=training, momentum=momentum, key=key)

    def _decode(
        self,
        quantized: Float[Array, "batch book dim"],
        *,
        training: bool,
        momentum: float = MOMENTUM,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch emb"]:
        mean = jnp.mean(quantized, axis=1, keepdims=True)
        return self.decoder(mean, training=training, momentum=momentum, key=key)[:, 0]


def principal_views(rows: Float[Array, "rows emb"], *, num_books: int) -> Float[Array, "book emb emb"]:
    """Returns for each book a projection onto its own share of the principal directions of `rows`.

    The directions are dealt out in turns, back and forth (0 1 2 2 1 0 0 …), so that each book gets about the
    same variance, and scaled by variance^(-1/4), half way to equal variances: weak directions are what tells
    similar rows apart.

    K encoders of the same vector tend to cut the space along the same lines, so that rows which share a code
    in one book share it in all. Looking at different directions, they cut it differently.

    Source: the directions are dealt out as in optimized product quantization (Ge et al., 2013), in a simpler
      order.

    Args:
      rows: standardised vectors.
      num_books: at most `emb`.
    """
    num_rows, dim = rows.shape
    covariance = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST) / num_rows
    variances, directions = jnp.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    # Directions without any variance would be blown up to noise; a table of equal rows has no others.
    relative = jnp.maximum(variances / jnp.maximum(jnp.mean(variances), 1e-12), 1e-3)
    turn = jnp.arange(dim) % (2 * num_books)
    owner = jnp.where(turn < num_books, turn, 2 * num_books - 1 - turn)
    weights = jnp.where(owner[None] == jnp.arange(num_books)[:, None], relative[None] ** -0.25, 0.0)
    # The same total scale for all books, that of the identity.
    weights = weights * jnp.sqrt(dim / jnp.sum(weights**2, axis=1, keepdims=True))
    return jnp.einsum("ij,kj,lj->kil", directions, weights, directions)


def _check(config: TokenizerConfig, *, dim: int) -> None:
    """Raises ConfigError at the first field that cannot be."""
    rules = (
        ("kind", config.kind in TOKENIZER_KINDS, f"one of {TOKENIZER_KINDS}"),
        ("num_books", 1 <= config.num_books <= dim, f"1 to {dim}, the size of the collaborative embeddings"),
        ("book_size", config.book_size >= 1, "1 or more"),
        ("code_dim", config.code_dim >= 1, "1 or more"),
        ("hidden_dims", all(size >= 1 for size in config.hidden_dims), "sizes of 1 or more"),
        ("mask_ratio", 0 <= config.mask_ratio < 1, "0 or more, below 1"),
        ("dropout", 0 <= config.dropout < 1, "0 or more, below 1"),
        ("kmeans_rows", config.kmeans_rows >= 1, "1 or more"),
    )
    for name, holds, allowed in rules:
        if not holds:
            raise ConfigError(f"tokenizer.{name}: {getattr(config, name)!r}; allowed is {allowed}")
