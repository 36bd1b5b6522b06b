"""Vector quantization as pure functions: nearest codes, straight-through gradient, losses, use of the codes.

What is learned around it lives in `tokenizer.py`, how the code vectors are found at the start in `kmeans.py`.
Read `nearest_codes` and `straight_through` first. All books are handled at once: they are an axis, not a
loop.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class QuantizationLosses:
    """The two terms that pull code vectors and encoder outputs together.

    Attributes:
      codebook: moves the code vectors only.
      commitment: moves the encoder only; the same value.
    """

    codebook: Float[Array, ""]
    commitment: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class CodeUsage:
    """How well a table of codes uses its books and tells its rows apart.

    Attributes:
      used: codes that at least one row has, of each book.
      dead: codes that no row has, of each book.
      perplexity: exp of the entropy of the codes in nats, of each book; `code` when all are equally frequent.
      sharing_rows: rows whose full code (all books) some other row has too.
      sharing_ratio: `sharing_rows` as a share of all rows.
      largest_group: most rows with one full code.
    """

    used: Int[np.ndarray, " book"]
    dead: Int[np.ndarray, " book"]
    perplexity: Float[np.ndarray, " book"]
    sharing_rows: int
    sharing_ratio: float
    largest_group: int


def nearest_codes(
    vectors: Float[Array, "batch book dim"], codebooks: Float[Array, "book code dim"]
) -> Int[Array, "batch book"]:
    """Returns the code whose vector is nearest (Euclidean) in each book; the lowest of equals.

    Distances are expanded, ‖c‖² − 2 v·c (‖v‖² is the same for all codes), so that the work is one batched
    matmul, in float32 at full precision: on TPU the default would round the products to bfloat16.
    """
    vectors, codebooks = vectors.astype(jnp.float32), codebooks.astype(jnp.float32)
    products = jnp.einsum("bkd,kcd->bkc", vectors, codebooks, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(codebooks**2, axis=-1)[None] - 2.0 * products, axis=-1)


def look_up(
    codebooks: Float[Array, "book code dim"], codes: Int[Array, "batch book"]
) -> Float[Array, "batch book dim"]:
    """Returns the vector of each code."""
    return codebooks[jnp.arange(codebooks.shape[0])[None], codes]


def straight_through(
    vectors: Float[Array, "batch book dim"], quantized: Float[Array, "batch book dim"]
) -> Float[Array, "batch book dim"]:
    """Returns `quantized` whose gradient goes to `vectors`, as if nothing had been rounded.

    Source: VQ-VAE (van den Oord et al., 2017), §3.2; TokenRec §IV-B.
    Differs: the reference code computes this value and then decodes the raw code vectors, so that its
      encoders never receive a gradient.
    """
    return vectors + jax.lax.stop_gradient(quantized - vectors)


def quantization_losses(
    vectors: Float[Array, "batch book dim"], quantized: Float[Array, "batch book dim"]
) -> QuantizationLosses:
    """Returns squared distances of vectors and their codes: a mean over rows and elements, summed over books.

    Source: TokenRec §IV-B, the second and third term of the tokenizer's loss.
    Differs: a mean instead of a sum over elements, as in the reconstruction term, so that the weights of the
      terms mean the same for every `code_dim`.
    """
    vectors, quantized = vectors.astype(jnp.float32), quantized.astype(jnp.float32)
    num_books = vectors.shape[1]
    return QuantizationLosses(
        codebook=num_books * jnp.mean((jax.lax.stop_gradient(vectors) - quantized) ** 2),
        commitment=num_books * jnp.mean((vectors - jax.lax.stop_gradient(quantized)) ** 2),
    )


def count_codes(codes: Int[Array, "batch book"], *, book_size: int) -> Float[Array, "book code"]:
    """Returns how many rows have each code."""
    num_books = codes.shape[1]
    counts = jnp.zeros((num_books, book_size), jnp.float32)
    return counts.at[jnp.arange(num_books)[None], codes].add(1.0)


def measure_usage(codes: Int[np.ndarray, "rows book"], *, book_size: int) -> CodeUsage:
    """Returns the use of the codes of a whole table; numpy, for reports rather than for the train step."""
    counts = np.stack([np.bincount(book, minlength=book_size) for book in np.asarray(codes).T])
    shares = counts / max(len(codes), 1)
    entropy = -np.sum(shares * np.log(np.where(counts > 0, shares, 1.0)), axis=1)
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    sharing = int(groups[groups > 1].sum())
    used = np.count_nonzero(counts, axis=1)
    return CodeUsage(
        used=used,
        dead=book_size - used,
        perplexity=np.exp(entropy),
        sharing_rows=sharing,
        sharing_ratio=sharing / max(len(codes), 1),
        largest_group=int(groups.max(initial=0)),
    )
