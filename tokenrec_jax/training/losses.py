"""Loss terms as functions of arrays. Read `softmax_retrieval` for ours and `pairwise_retrieval` for the paper's.

The tokenizers' loss lives with the tokenizers, since its terms need their insides. Which stage sums which terms is in
`step.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tokenrec_jax.numerics import normalize
from tokenrec_jax.partitioned import take_rows
from tokenrec_jax.training.normaliser import cross_entropy
from tokenrec_jax.types import PADDING


def bayesian_personalized_ranking(
    users: Float[Array, "batch emb"],
    positives: Float[Array, "batch emb"],
    negatives: Float[Array, "batch emb"],
) -> Float[Array, ""]:
    """Returns the mean of -log sigmoid(user . positive - user . negative).

    Source: BPR (Rendle et al., 2009), as LightGCN uses it.
    """
    margin = jnp.sum(users * (positives - negatives), axis=-1)
    return -jnp.mean(jax.nn.log_sigmoid(margin))


def softmax_retrieval(
    queries: Float[Array, "batch position emb"],
    items: Float[Array, "items emb"],
    *,
    target: Int[Array, "batch position"],
    num_items: int,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the target among all items over the positions that have one.

    Args:
      queries: their dot product with an item is its logit; the temperature is inside.
      items: item vectors; rows from `num_items` on are padding and get no probability.
      target: item ids, `PADDING` where a position has none.
      num_items: items of the catalogue.
      label_smoothing: share of the target's probability that all items share.
    """
    with jax.named_scope("softmax_retrieval"):
        flat = queries.reshape(-1, queries.shape[-1])
        loss = cross_entropy(flat, items, target=target.reshape(-1), num_items=num_items)
        if label_smoothing:
            wanted = jnp.maximum(target.reshape(-1), 0)
            loss = loss + label_smoothing * _above_mean(flat, items, target=wanted, num_items=num_items)
        return masked_mean(loss.reshape(target.shape), target != PADDING)


def softmax_interactions(
    users: Float[Array, "batch emb"],
    items: Float[Array, "items emb"],
    *,
    target: Int[Array, " batch"],
    num_items: int,
    temperature: float,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of each user's item among all items, by cosine similarity.

    Source: the softmax loss of "On the Effectiveness of Sampled Softmax Loss for Item Recommendation" (Wu et al.,
    2024).
    Differs: all items instead of a sample, so no correction for how often an item is drawn.
    """
    loss = cross_entropy(normalize(users) / temperature, normalize(items), target=target, num_items=num_items)
    return jnp.mean(loss)


def _above_mean(
    queries: Float[Array, "rows emb"], items: Float[Array, "items emb"], *, target: Int[Array, " rows"], num_items: int
) -> Float[Array, " rows"]:
    """Returns by how much each row's logit of its target exceeds its mean logit."""
    real = (jnp.arange(items.shape[0]) < num_items)[:, None]
    mean = jnp.sum(jnp.where(real, items, 0.0), axis=0, keepdims=True) / num_items
    return jnp.sum(queries * (take_rows(items, target) - mean), axis=-1)


def pairwise_retrieval(
    queries: Float[Array, "batch position emb"],
    items: Float[Array, "items emb"],
    *,
    target: Int[Array, "batch position"],
    negative: Int[Array, "batch position negative"],
    margin: float,
) -> Float[Array, ""]:
    """Returns the mean hinge of cosine(query, negative) - cosine(query, target) + margin.

    Source: TokenRec eq. 13.
    Differs: any number of negatives a position, none of them a training item of the user; the reference code draws one
    that may be the positive, and its margin is 0.

    Args:
      queries: any length; normalised here.
      items: unit vectors.
      target: item ids, `PADDING` where a position has none.
      negative: item ids.
      margin: in cosine similarity, 0 to 2.
    """
    unit_queries = normalize(queries)
    positive = jnp.einsum("bpd,bpd->bp", unit_queries, take_rows(items, jnp.maximum(target, 0)))
    negatives = jnp.einsum("bpd,bpnd->bpn", unit_queries, take_rows(items, negative))
    hinge = jnp.maximum(negatives - positive[..., None] + margin, 0).mean(axis=-1)
    return masked_mean(hinge, target != PADDING)


def masked_mean(values: Float[Array, "batch position"], mask: Array) -> Float[Array, ""]:
    """Returns the mean of the values where `mask` is true, 0 if it is nowhere."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
