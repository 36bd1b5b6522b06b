"""Item-based nearest neighbours: items bought by the same users as the items of the history.

Read `item_knn` first. All matrices are sparse; only the score block of one batch is dense.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
from jaxtyping import Int

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import PADDING, ConfigError, EvaluationBatch


def item_knn(train: Interactions, *, neighbours: int = 0) -> Callable[[EvaluationBatch], np.ndarray]:
    """Returns a score function: the summed similarity of an item to the distinct items a user has seen.

    The similarity of two items is the cosine between their columns of the binary training matrix, 0 of an
    item with itself. Seen are all items before the target, however old; on the test split that includes the
    validation item.

    Args:
      train: `interactions.without_last(2)`.
      neighbours: nearest neighbours that an item of the history votes for, ties to the lower id; 0: all.

    Raises:
      ConfigError: `neighbours` is negative.

    Source: Deshpande and Karypis (2004), item-based top-N recommendation with cosine similarity.
    Differs: similarities are not normalised per item, and histories are binary.
    """
    if neighbours < 0:
        raise ConfigError(f"neighbours: got {neighbours}; allowed is 0 (all) or more")
    similarity = cosine_similarity(train)
    if neighbours:
        similarity = keep_largest(similarity, neighbours)

    def score(batch: EvaluationBatch) -> np.ndarray:
        seen = binary_matrix(np.asarray(batch.seen), num_items=train.num_items)
        # Rounding to float32 joins scores that differ only by the order of their sum.
        return _csr(seen @ similarity).toarray().astype(np.float32)

    return score


def cosine_similarity(train: Interactions) -> scipy.sparse.csr_array:
    """Returns the cosine between the columns of the binary user-item matrix; the diagonal is empty."""
    matrix = interaction_matrix(train)
    together = _csr(matrix.T @ matrix).tocoo()
    count = np.bincount(matrix.indices, minlength=train.num_items)
    other = together.row != together.col
    row, column = together.row[other], together.col[other]
    # Exact counts and one root of an exact product: equal cosines stay equal, and ties count against us.
    cosine = together.data[other] / np.sqrt(count[row] * count[column])
    return scipy.sparse.csr_array((cosine, (row, column)), shape=(train.num_items, train.num_items))


def interaction_matrix(train: Interactions) -> scipy.sparse.csr_array:
    """Returns the binary user-item matrix, [users, items]."""
    user = np.repeat(np.arange(train.num_users), np.diff(train.indptr))
    return _binary(user, train.items, shape=(train.num_users, train.num_items))


def keep_largest(matrix: scipy.sparse.csr_array, count: int) -> scipy.sparse.csr_array:
    """Returns the matrix with only the `count` largest entries of each row; ties go to the lower column."""
    entries = matrix.tocoo()
    order = np.lexsort((entries.col, np.negative(entries.data), entries.row))
    row, column, data = entries.row[order], entries.col[order], entries.data[order]
    row_start = np.searchsorted(row, np.arange(int(row.max(initial=0)) + 1))
    keep = np.arange(len(row)) - row_start[row] < count
    return scipy.sparse.csr_array((data[keep], (row[keep], column[keep])), shape=matrix.shape)


def binary_matrix(lists: Int[np.ndarray, "batch seen"], *, num_items: int) -> scipy.sparse.csr_array:
    """Returns padded lists of items as a sparse matrix with a 1 for each item that occurs."""
    row, position = np.nonzero(lists != PADDING)
    return _binary(row, lists[row, position], shape=(len(lists), num_items))


def _binary(
    row: Int[np.ndarray, " entries"], column: Int[np.ndarray, " entries"], *, shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    """Returns the matrix with a 1 at each place that is named, however often."""
    matrix = scipy.sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def _csr(product: object) -> scipy.sparse.csr_array:
    """Returns a product of sparse matrices, which the type stubs of SciPy do not know to be sparse."""
    return scipy.sparse.csr_array(product)
