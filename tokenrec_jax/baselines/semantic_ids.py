"""What a generator writes for an item: its codes, and one more number where items share all of them. Read `distinct`.

The codes are those of a finished run, or, without one, `spectral_codes`, residual k-means on vectors of the
interactions alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float, Int

from tokenrec_jax.baselines.item_knn import interaction_matrix
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.models.kmeans import fit_kmeans
from tokenrec_jax.models.quantization import nearest_codes
from tokenrec_jax.types import ConfigError


@dataclasses.dataclass(frozen=True)
class SemanticIds:
    """Sequences that name items, none twice.

    Attributes:
      codes: of each item, 0 <= code < sizes of its place.
      sizes: how many codes each place has.
    """

    codes: Int[np.ndarray, "items width"]
    sizes: tuple[int, ...]


def distinct(codes: Int[np.ndarray, "items book"], *, book_size: int) -> SemanticIds:
    """Returns codes that name one item each: where some share all books, one more place counts them by ascending id.

    Source: TIGER (Rajput et al., 2023), §3.1, handling of collisions.
    """
    # Sorted by code and, as the sort is stable, by id within a code.
    order = np.lexsort(codes.T[::-1])
    new = np.ones(len(codes), bool)
    new[1:] = (codes[order][1:] != codes[order][:-1]).any(axis=1)
    first = np.flatnonzero(new)
    rank = np.empty(len(codes), np.int64)
    rank[order] = np.arange(len(codes)) - first[np.cumsum(new) - 1]
    sizes = (book_size,) * codes.shape[1]
    if not rank.any():
        return SemanticIds(codes=codes.astype(np.int32), sizes=sizes)
    return SemanticIds(
        codes=np.concatenate([codes, rank[:, None]], axis=1).astype(np.int32), sizes=(*sizes, int(rank.max()) + 1)
    )


def spectral_codes(
    train: Interactions, *, dim: int, num_books: int, book_size: int, iterations: int, seed: int
) -> Int[np.ndarray, "items book"]:
    """Returns codes by residual k-means on the unit vectors of `spectral_vectors`.

    Args:
      train: `interactions.without_last(2)`.
      dim: of the vectors.
      num_books: codes an item.
      book_size: codes in a book.
      iterations: of k-means.
      seed: decides where k-means starts.
    """
    rest = jnp.asarray(spectral_vectors(train, dim=dim))
    codes = []
    for key in jax.random.split(jax.random.key(seed), num_books):
        book = fit_kmeans(rest[None], num_centers=book_size, iterations=iterations, key=key)
        code = nearest_codes(rest[:, None], book)[:, 0]
        codes.append(np.asarray(code))
        rest = rest - book[0][code]
    return np.stack(codes, axis=1)


def spectral_vectors(train: Interactions, *, dim: int) -> Float[np.ndarray, "items emb"]:
    """Returns unit vectors of the items: right singular vectors of the normalised interaction matrix, scaled.

    What LightGCN's propagation converges towards, without training. An item that nobody has touched gets zeros.

    Raises:
      ConfigError: `dim` is not below the number of users and of items.
    """
    smallest = min(train.num_users, train.num_items)
    if not 1 <= dim < smallest:
        raise ConfigError(
            f"model.vector_dim is {dim}; allowed is 1 or more and below {smallest}, the number of users or items"
        )
    matrix = interaction_matrix(train)
    by_user, by_item = (np.maximum(np.asarray(matrix.sum(axis=axis)).ravel(), 1.0) ** -0.5 for axis in (1, 0))
    matrix = scipy.sparse.diags_array(by_user) @ matrix @ scipy.sparse.diags_array(by_item)
    # A fixed start makes the result a function of the data. Not one of equal numbers: on symmetric data that is a
    # singular vector already, and ARPACK starts again from entropy of the system.
    start = np.random.default_rng(0).standard_normal(smallest)
    _, values, right = scipy.sparse.linalg.svds(matrix, k=dim, v0=start, solver="arpack")
    vectors = (right * values[:, None]).T.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
