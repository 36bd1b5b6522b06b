"""Users and items as vectors: what LightGCN and matrix factorisation are without a language model."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int

from tokenrec_jax.retrieval import search
from tokenrec_jax.types import EvaluationBatch


def dot_product(
    user_vectors: Float[Array, "users emb"], item_vectors: Float[Array, "items emb"]
) -> Callable[[EvaluationBatch], jax.Array]:
    """Returns a score function: the dot product of the vector of the user and that of the item.

    Args:
      user_vectors: one user a row; rows beyond the users of the batches are never read.
      item_vectors: one item a row; rows beyond the catalogue are padding, which the evaluator ignores.
    """

    def score(batch: EvaluationBatch) -> jax.Array:
        return _score(jax.device_put(batch.user), user_vectors, item_vectors)

    return score


@jax.jit
def _score(
    user: Int[Array, " batch"],
    user_vectors: Float[Array, "users emb"],
    item_vectors: Float[Array, "items emb"],
) -> Float[Array, "batch items"]:
    return search.similarities(user_vectors[user], item_vectors)
