"""EASE: the linear autoencoder over items that has a closed form and no item explain itself. Read `ease`.

The matrix of all pairs of items is dense, 4 bytes a pair: 600 MB for 12,000 items, and as much again while it is made.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Float

from tokenrec_jax.baselines.item_knn import history_matrix, interaction_matrix
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import ConfigError, EvaluationBatch


def ease(train: Interactions, *, l2: float, recency: float = 1.0) -> Callable[[EvaluationBatch], np.ndarray]:
    """Returns a score function: the summed weights from the distinct items that a user has seen.

    Seen are all items before the target, however old, as for `item_knn`.

    Args:
      train: `interactions.without_last(2)`.
      l2: weight of the squared weights; hundreds are usual, more for denser data. To be chosen on validation.
      recency: weight of an item of the history relative to the one after it; 1: all items count alike (Steck).

    Raises:
      ConfigError: `l2` is not positive.
    """
    return score_with_weights(ease_weights(train, l2=l2), recency=recency)


def score_with_weights(
    weights: Float[np.ndarray, "items items"], *, recency: float = 1.0
) -> Callable[[EvaluationBatch], np.ndarray]:
    """Returns the score function of what `ease_weights` returns, for several ways to read a history."""

    def score(batch: EvaluationBatch) -> np.ndarray:
        seen = history_matrix(np.asarray(batch.seen), num_items=len(weights), recency=recency)
        return seen.astype(np.float32) @ weights

    return score


def ease_weights(train: Interactions, *, l2: float) -> Float[np.ndarray, "items items"]:
    """Returns the weight of each item, a row, for each item, a column, float32; zero on the diagonal.

    Raises:
      ConfigError: `l2` is not positive.

    Source: Steck, 2019, Embarrassingly Shallow Autoencoders for Sparse Data, equation 8.
    """
    if not l2 > 0:
        raise ConfigError(f"l2: got {l2}; allowed is more than 0")
    matrix = interaction_matrix(train)
    gram = np.asfortranarray(scipy.sparse.csr_array(matrix.T @ matrix).toarray().astype(np.float32))
    gram[np.diag_indices_from(gram)] += np.float32(l2)
    # In place, by the triangle of Cholesky: positive definite as `l2` is positive.
    factorize, invert = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, failed = factorize(gram, lower=1, overwrite_a=1)
    inverse, failed_too = invert(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise ConfigError(f"l2: {l2} is too small for float32 on {train.name}; give a larger one")
    # The upper triangle holds what the factor left there.
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = inverse / -np.diag(inverse)
    weights[np.diag_indices_from(weights)] = 0.0
    return np.ascontiguousarray(weights)
