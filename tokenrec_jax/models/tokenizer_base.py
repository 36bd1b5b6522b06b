"""What all tokenizers share: the interface, the standardisation of their input, and the revival of dead codes.

The kinds are `MaskedVQTokenizer` in `tokenizer.py` (the paper's) and two in `tokenizer_residual.py`. Read
`Tokenizer`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tokenrec_jax.config import TokenizerConfig
from tokenrec_jax.models import quantization
from tokenrec_jax.models.buffer import Buffer

# Share of the usage statistics that a batch leaves as it was: a code is judged by about the last 50 batches.
USAGE_DECAY = 0.98


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenizerOutput:
    """Loss of a training batch, its terms, and what `Tokenizer.revive` wants to see of it.

    Attributes:
      total: weighted sum of the three terms below.
      reconstruction: mean squared error of the standardised vectors: the share of their variance that is
        lost.
      codebook: distance of code vectors to encoder outputs; moves the code vectors.
      commitment: the same distance; moves the encoders.
      codes: chosen codes.
      encoded: what each book quantized, without gradient.
    """

    total: Float[Array, ""]
    reconstruction: Float[Array, ""]
    codebook: Float[Array, ""]
    commitment: Float[Array, ""]
    codes: Int[Array, "batch book"]
    encoded: Float[Array, "batch book dim"]


class Tokenizer(nnx.Module):
    """Turns collaborative embeddings into `num_books` codes each, and codes back into embeddings.

    Life of a tokenizer: `initialize` once with the real rows of the table; then, each training step, `loss`,
    an optimizer step on the `nnx.Param`s, and `revive` with the output of that loss; at last `encode` and
    `decode`, which change nothing. `loss` updates the batch-norm statistics (`nnx.BatchStat`), `revive` the
    usage statistics (`Buffer`) and the code vectors, in place: under jit, carry all variables out again.

    Args of the constructor:
      config: see `TokenizerConfig`.
      dim: size of the collaborative embeddings.
      code_dim: size of the code vectors.
      codebook_type: `nnx.Param`, or `Buffer` for code vectors that no gradient moves.

    Attributes:
      codes_follow: whether a vector that moved a little has, as a rule, the codes that it had; if not, a table of codes
        is written once.
    """

    codes_follow = True

    def __init__(
        self,
        config: TokenizerConfig,
        *,
        dim: int,
        code_dim: int,
        codebook_type: type[nnx.Variable] = nnx.Param,
    ):
        self.config = config
        self.mean = Buffer(jnp.zeros(dim))
        self.scale = Buffer(jnp.ones(()))
        # Frequency of each code in recent batches; 1 is the average of a book.
        self.usage = Buffer(jnp.ones((config.num_books, config.book_size)))
        self.codebooks = codebook_type(jnp.zeros((config.num_books, config.book_size, code_dim)))

    def encode(self, vectors: Float[Array, "batch emb"]) -> Int[Array, "batch book"]:
        """Returns the codes of collaborative embeddings; no mask, no dropout, running batch-norm statistics.

        All rows are worked on at once, in about 4 * num_books * (code_dim + book_size) bytes each.
        """
        raise NotImplementedError

    def decode(self, codes: Int[Array, "batch book"]) -> Float[Array, "batch emb"]:
        """Returns the collaborative embeddings that codes stand for, in the units of the input of `encode`."""
        raise NotImplementedError

    def loss(self, vectors: Float[Array, "batch emb"], *, key: PRNGKeyArray) -> TokenizerOutput:
        """Returns the training loss of a batch; `key` decides mask and dropout."""
        raise NotImplementedError

    def initialize(self, vectors: Float[Array, "rows emb"], *, key: PRNGKeyArray) -> None:
        """Fits all that depends on data before the first step: standardisation, batch norm, k-means of the books.

        Args:
          vectors: the real rows of the table; padded rows would shift the mean and win codes.
          key: decides which rows k-means looks at and where it starts.
        """
        raise NotImplementedError

    def code_vectors(self) -> Float[Array, "book code dim"]:
        """Returns the vector of each code, from which the token embeddings of a language model can start."""
        return self.codebooks[...]

    def revive(self, output: TokenizerOutput, *, key: PRNGKeyArray) -> None:
        """Updates the usage of the codes and moves each dead one onto what its book quantized for a random row.

        A code is dead when its usage falls below `config.revival_threshold`; a moved one starts at the
        average usage, so it has time to win rows. Rows are drawn evenly, so that most moved codes land in
        dense regions, where many rows share a code.

        Differs: neither the paper nor its code has this; without it books decay.
        """
        num_books, book_size = self.usage.shape
        batch = output.codes.shape[0]
        counts = quantization.count_codes(output.codes, book_size=book_size)
        usage = USAGE_DECAY * self.usage[...] + (1 - USAGE_DECAY) * counts * (book_size / batch)
        dead = usage < self.config.revival_threshold
        # The n-th dead code of a book takes the n-th row of a random order; books have different orders.
        order = jnp.argsort(jax.random.uniform(key, (num_books, batch)), axis=1)
        rank = (jnp.cumsum(dead, axis=1) - 1) % batch
        rows = jnp.take_along_axis(order, rank, axis=1)
        replacement = output.encoded[rows, jnp.arange(num_books)[:, None]]
        self.codebooks[...] = jnp.where(dead[:, :, None], replacement, self.codebooks[...])
        self.usage[...] = jnp.where(dead, 1.0, usage)

    def _fit_standardisation(self, vectors: Float[Array, "rows emb"]) -> None:
        """Learns a mean of each dimension and one scale for all, which keeps the geometry of the embeddings."""
        self.mean[...] = jnp.mean(vectors, axis=0)
        scale = jnp.sqrt(jnp.mean(jnp.var(vectors, axis=0)))
        self.scale[...] = jnp.where(scale > 0, scale, 1.0)

    def _standardise(self, vectors: Float[Array, "batch emb"]) -> Float[Array, "batch emb"]:
        return (vectors - self.mean[...][None]) / self.scale[...]

    def _restore(self, vectors: Float[Array, "batch emb"]) -> Float[Array, "batch emb"]:
        return vectors * self.scale[...] + self.mean[...][None]

    def _sample(self, vectors: Float[Array, "rows emb"], *, key: PRNGKeyArray) -> Float[Array, "sample emb"]:
        """Returns the standardised rows that k-means looks at."""
        rows = vectors.shape[0]
        if rows > self.config.kmeans_rows:
            chosen = jax.random.choice(key, rows, (self.config.kmeans_rows,), replace=False)
            vectors = vectors[chosen]
        return self._standardise(vectors)


def mask_elements(
    vectors: Float[Array, "batch emb"], *, mask_ratio: float, key: PRNGKeyArray
) -> Float[Array, "batch emb"]:
    """Returns a copy in which each element is 0 with probability `mask_ratio`, independently.

    Source: TokenRec §IV-B.
    Differs: the vectors are standardised, so that a masked element reads as the mean of its dimension. The
      reference code draws one mask a batch, hides about 4 of 64 elements, overwrites the target too and adds
      up over the books.
    """
    return jnp.where(jax.random.bernoulli(key, mask_ratio, vectors.shape), 0.0, vectors)


def make_output(
    config: TokenizerConfig,
    *,
    target: Float[Array, "batch emb"],
    decoded: Float[Array, "batch emb"],
    encoded: Float[Array, "batch book dim"],
    quantized: Float[Array, "batch book dim"],
    codes: Int[Array, "batch book"],
) -> TokenizerOutput:
    """Returns the loss terms of a batch and their weighted sum.

    Source: TokenRec §IV-B; VQ-VAE (van den Oord et al., 2017), eq. 3.
    """
    reconstruction = jnp.mean((decoded - target) ** 2)
    losses = quantization.quantization_losses(encoded, quantized)
    return TokenizerOutput(
        total=reconstruction + config.codebook_weight * losses.codebook + config.commitment_weight * losses.commitment,
        reconstruction=reconstruction,
        codebook=losses.codebook,
        commitment=losses.commitment,
        codes=codes,
        encoded=jax.lax.stop_gradient(encoded),
    )
