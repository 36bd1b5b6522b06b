"""Item-based nearest neighbours: items bought by the same users as the items of the history.

Read `item_knn` first. Matrices are sparse unless the data is dense itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Int

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import PADDING, ConfigError, EvaluationBatch

#: Share of similarities that are not zero from which a dense matrix multiplies faster than a sparse one.
_DENSE = 0.05


@dataclasses.dataclass(frozen=True)
class ItemKNN:
    """Settings of the baseline; those by default are plain cosine.

    Attributes:
      shrinkage: added to the denominator of the cosine: similarities that rest on few users count less.
      neighbours: how many of an item's most similar items vote for it, ties to the lower id; 0: all.
      recency: weight of an item of the history relative to the one after it; 1: all items count alike.
    """

    shrinkage: float = 0.0
    neighbours: int = 0
    recency: float = 1.0


def item_knn(train: Interactions, settings: ItemKNN = ItemKNN()) -> Callable[[EvaluationBatch], np.ndarray]:
    """Returns a score function: the summed similarity of an item to the distinct items a user has seen.

    The similarity of items i and j, that n_i, n_j and n_ij users have in the training, is
    n_ij / (sqrt(n_i n_j) + shrinkage), 0 of an item with itself. Seen are all items before the target, however old; on
    the test split that includes the validation item, while n never does.

    Args:
      train: `interactions.without_last(2)`.
      settings: of similarity and votes.

    Raises:
      ConfigError: a setting is out of range.

    Source: Deshpande and Karypis (2004), item-based top-N recommendation; shrinkage: Bell and Koren (2007).
    Differs: similarities are not normalised per item, and a candidate keeps its nearest items rather than an item of
      the history its nearest candidates, which is better on validation.
    """
    return score_with_votes(knn_votes(train, settings), recency=settings.recency)


def knn_votes(train: Interactions, settings: ItemKNN) -> Any:
    """Returns how much each item, a row, votes for each item, a column; sparse, or an array where few are zero.

    Args:
      train: `interactions.without_last(2)`.
      settings: of the similarities; `recency` does not matter.

    Raises:
      ConfigError: shrinkage or neighbours are out of range.
    """
    if not settings.shrinkage >= 0:
        raise ConfigError(f"shrinkage: got {settings.shrinkage}; allowed is 0 or more")
    if settings.neighbours < 0:
        raise ConfigError(f"neighbours: got {settings.neighbours}; allowed is 0 (all) or more")
    similarity = cosine_similarity(train, shrinkage=settings.shrinkage)
    if settings.neighbours:
        # Symmetric until here, so the rows that are kept are the columns of the candidates.
        similarity = _csr(keep_largest(similarity, settings.neighbours).T)
    return similarity.toarray() if similarity.nnz > _DENSE * train.num_items**2 else similarity


# Any: either form multiplies a sparse matrix from the right.
def score_with_votes(votes: Any, *, recency: float) -> Callable[[EvaluationBatch], np.ndarray]:
    """Returns the score function of what `knn_votes` returns, for several ways to read a history.

    Raises:
      ConfigError: `recency` is out of range.
    """
    if not 0 < recency <= 1:
        raise ConfigError(f"recency: got {recency}; allowed is above 0 and at most 1")

    def score(batch: EvaluationBatch) -> np.ndarray:
        seen = history_matrix(np.asarray(batch.seen), num_items=votes.shape[0], recency=recency)
        scores = seen @ votes
        # Rounding to float32 joins scores that differ only by the order of their sum.
        return (scores.toarray() if scipy.sparse.issparse(scores) else scores).astype(np.float32)

    return score


def cosine_similarity(train: Interactions, *, shrinkage: float = 0.0) -> scipy.sparse.csr_array:
    """Returns the cosine between the columns of the binary user-item matrix; the diagonal is empty."""
    matrix = interaction_matrix(train)
    # In place: there may be hundreds of millions of pairs.
    similarity = _csr(matrix.T @ matrix)
    similarity.sort_indices()
    count = np.bincount(matrix.indices, minlength=train.num_items)
    norm = np.repeat(count, np.diff(similarity.indptr)).astype(np.float64)
    norm *= count[similarity.indices]
    # Exact counts and one root of an exact product: equal cosines stay equal, and ties count against us.
    np.sqrt(norm, out=norm)
    norm += shrinkage
    similarity.data /= norm
    similarity.setdiag(0)
    similarity.eliminate_zeros()
    return similarity


def most_pairs(train: Interactions) -> int:
    """Returns how many pairs of items have users in common, at most: what `item_knn` holds grows with it."""
    lengths = np.diff(train.indptr).astype(np.int64)
    return int(min(train.num_items**2, np.sum(lengths**2)))


def interaction_matrix(train: Interactions) -> scipy.sparse.csr_array:
    """Returns the binary user-item matrix, [users, items]."""
    user = np.repeat(np.arange(train.num_users), np.diff(train.indptr))
    matrix = scipy.sparse.csr_array((np.ones(len(user)), (user, train.items)), shape=(train.num_users, train.num_items))
    matrix.data[:] = 1.0
    return matrix


def keep_largest(matrix: scipy.sparse.csr_array, count: int) -> scipy.sparse.csr_array:
    """Returns the matrix with only the `count` largest entries of each row; ties go to the lower column."""
    entries = matrix.tocoo()
    order = np.lexsort((entries.col, np.negative(entries.data), entries.row))
    row, column, data = entries.row[order], entries.col[order], entries.data[order]
    row_start = np.searchsorted(row, np.arange(int(row.max(initial=0)) + 1))
    keep = np.arange(len(row)) - row_start[row] < count
    return scipy.sparse.csr_array((data[keep], (row[keep], column[keep])), shape=matrix.shape)


def history_matrix(
    lists: Int[np.ndarray, "batch seen"], *, num_items: int, recency: float = 1.0
) -> scipy.sparse.csr_array:
    """Returns padded lists of items, oldest first, as a sparse matrix with the weight of each item that occurs.

    The newest item weighs 1 and each one before it `recency` times the one after it; an item that occurs more than
    once counts where it is newest.
    """
    row, position = np.nonzero(lists != PADDING)
    column = lists[row, position]
    age = np.sum(lists != PADDING, axis=1)[row] - 1 - position
    _, newest = np.unique((row * num_items + column)[::-1], return_index=True)
    newest = len(row) - 1 - newest
    weight = np.power(float(recency), age[newest])
    return scipy.sparse.csr_array((weight, (row[newest], column[newest])), shape=(len(lists), num_items))


def _csr(product: object) -> scipy.sparse.csr_array:
    """Returns a product of sparse matrices, which the type stubs of SciPy do not know to be sparse."""
    return scipy.sparse.csr_array(product)
