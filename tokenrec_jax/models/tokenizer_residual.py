"""Two tokenizers whose books refine each other: each quantizes what the books before it left over.

`ResidualVQTokenizer` learns one encoder and the books; `KMeansTokenizer` learns nothing beyond k-means. Both
are baselines for the paper's tokenizer in `tokenizer.py`. Read `quantize_residuals` first.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tokenrec_jax.config import TokenizerConfig
from tokenrec_jax.models import quantization
from tokenrec_jax.models.buffer import Buffer
from tokenrec_jax.models.kmeans import fit_kmeans
from tokenrec_jax.models.stacked_mlp import MOMENTUM, StackedMLP
from tokenrec_jax.models.tokenizer_base import Tokenizer, TokenizerOutput, make_output, mask_elements


@dataclasses.dataclass(frozen=True)
class ResidualCodes:
    """Codes of a batch and what each book saw.

    Attributes:
      codes: chosen codes.
      residuals: what was left for each book; book 0 sees the vector itself.
    """

    codes: Int[Array, "batch book"]
    residuals: Float[Array, "batch book dim"]


def quantize_residuals(vectors: Float[Array, "batch dim"], codebooks: Float[Array, "book code dim"]) -> ResidualCodes:
    """Returns the nearest code of each book to what the books before it left over.

    Residuals pass gradients to `vectors` only: a book must not move to please the books after it.
    """
    codebooks = jax.lax.stop_gradient(codebooks)
    residual, codes, residuals = vectors, [], []
    for book in range(codebooks.shape[0]):
        own = codebooks[book : book + 1]
        chosen = quantization.nearest_codes(residual[:, None], own)
        codes.append(chosen)
        residuals.append(residual[:, None])
        residual = residual - quantization.look_up(own, chosen)[:, 0]
    return ResidualCodes(codes=jnp.concatenate(codes, axis=1), residuals=jnp.concatenate(residuals, axis=1))


def fit_residual_kmeans(
    rows: Float[Array, "rows dim"], *, config: TokenizerConfig, key: PRNGKeyArray
) -> Float[Array, "book code dim"]:
    """Returns codebooks by k-means of the rows, then of what it leaves over, and so on."""
    residual, books = rows, []
    for book_key in jax.random.split(key, config.num_books):
        book = fit_kmeans(
            residual[None],
            num_centers=config.book_size,
            iterations=config.kmeans_iterations,
            key=book_key,
        )
        chosen = quantization.nearest_codes(residual[:, None], book)
        residual = residual - quantization.look_up(book, chosen)[:, 0]
        books.append(book)
    return jnp.concatenate(books, axis=0)


class KMeansTokenizer(Tokenizer):
    """Residual k-means of the standardised vectors; fitted by `initialize`, never trained.

    The code vectors have the size of the collaborative embeddings; `config.code_dim` does not matter.
    """

    def __init__(self, config: TokenizerConfig, *, dim: int):
        super().__init__(config, dim=dim, code_dim=dim, codebook_type=Buffer)

    def encode(self, vectors: Float[Array, "batch emb"]) -> Int[Array, "batch book"]:
        """Returns the codes of collaborative embeddings; see `Tokenizer.encode`."""
        return quantize_residuals(self._standardise(vectors), self.codebooks[...]).codes

    def decode(self, codes: Int[Array, "batch book"]) -> Float[Array, "batch emb"]:
        """Returns the collaborative embeddings that codes stand for; see `Tokenizer.decode`."""
        return self._restore(jnp.sum(quantization.look_up(self.codebooks[...], codes), axis=1))

    def loss(self, vectors: Float[Array, "batch emb"], *, key: PRNGKeyArray) -> TokenizerOutput:
        """Returns the error of a batch for the record; it depends on no parameter and on no `key`."""
        del key
        target = self._standardise(vectors)
        found = quantize_residuals(target, self.codebooks[...])
        quantized = quantization.look_up(self.codebooks[...], found.codes)
        return make_output(
            self.config,
            target=target,
            decoded=jnp.sum(quantized, axis=1),
            encoded=found.residuals,
            quantized=quantized,
            codes=found.codes,
        )

    def initialize(self, vectors: Float[Array, "rows emb"], *, key: PRNGKeyArray) -> None:
        """Fits standardisation and books to the table; see `Tokenizer.initialize`."""
        sample_key, kmeans_key = jax.random.split(key)
        self._fit_standardisation(vectors)
        sample = self._sample(vectors, key=sample_key)
        self.codebooks[...] = fit_residual_kmeans(sample, config=self.config, key=kmeans_key)

    def revive(self, output: TokenizerOutput, *, key: PRNGKeyArray) -> None:
        """Does nothing: k-means leaves no dead codes, and its books stay as they were fitted."""


class ResidualVQTokenizer(Tokenizer):
    """One encoder, residual books, and a decoder of the sum of the chosen code vectors.

    Source: RQ-VAE of TIGER (Rajput et al., 2023), §3.1.
    Differs: masked input, as in `MaskedVQTokenizer`, so that the two differ in the quantizer only.
    """

    def __init__(self, config: TokenizerConfig, *, dim: int, rngs: nnx.Rngs):
        super().__init__(config, dim=dim, code_dim=config.code_dim)
        dims = (dim, *config.hidden_dims, config.code_dim)
        self.encoder = StackedMLP(1, dims, dropout=config.dropout, rngs=rngs)
        self.decoder = StackedMLP(1, dims[::-1], dropout=config.dropout, rngs=rngs)

    def encode(self, vectors: Float[Array, "batch emb"]) -> Int[Array, "batch book"]:
        """Returns the codes of collaborative embeddings; see `Tokenizer.encode`."""
        encoded = self.encoder(self._standardise(vectors)[:, None], training=False)[:, 0]
        return quantize_residuals(encoded, self.codebooks[...]).codes

    def decode(self, codes: Int[Array, "batch book"]) -> Float[Array, "batch emb"]:
        """Returns the collaborative embeddings that codes stand for; see `Tokenizer.decode`."""
        quantized = quantization.look_up(self.codebooks[...], codes)
        return self._restore(self._decode(quantized, training=False))

    def loss(self, vectors: Float[Array, "batch emb"], *, key: PRNGKeyArray) -> TokenizerOutput:
        """Returns the training loss of a batch; `key` decides mask and dropout."""
        mask_key, encoder_key, decoder_key = jax.random.split(key, 3)
        target = self._standardise(vectors)
        masked = mask_elements(target, mask_ratio=self.config.mask_ratio, key=mask_key)
        encoded = self.encoder(masked[:, None], training=True, key=encoder_key)
        found = quantize_residuals(encoded[:, 0], self.codebooks[...])
        quantized = quantization.look_up(self.codebooks[...], found.codes)
        total = jnp.sum(quantized, axis=1, keepdims=True)
        decoded = self._decode(quantization.straight_through(encoded, total), training=True, key=decoder_key)
        return make_output(
            self.config,
            target=target,
            decoded=decoded,
            encoded=found.residuals,
            quantized=quantized,
            codes=found.codes,
        )

    def initialize(self, vectors: Float[Array, "rows emb"], *, key: PRNGKeyArray) -> None:
        """Fits standardisation, batch norm and books to the table; see `Tokenizer.initialize`."""
        sample_key, kmeans_key = jax.random.split(key)
        self._fit_standardisation(vectors)
        sample = self._sample(vectors, key=sample_key)
        encoded = self.encoder(sample[:, None], training=True, momentum=0.0)[:, 0]
        self.codebooks[...] = fit_residual_kmeans(encoded, config=self.config, key=kmeans_key)
        codes = quantize_residuals(encoded, self.codebooks[...]).codes
        self._decode(quantization.look_up(self.codebooks[...], codes), training=True, momentum=0.0)

    def _decode(
        self,
        quantized: Float[Array, "batch book dim"],
        *,
        training: bool,
        momentum: float = MOMENTUM,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch emb"]:
        total = jnp.sum(quantized, axis=1, keepdims=True)
        return self.decoder(total, training=training, momentum=momentum, key=key)[:, 0]
