"""Why an item stands where it stands for a user. Read `explanation`; `Recommender.explain` gathers what it reads."""

import numpy as np
from jaxtyping import Float, Int

from tokenrec_jax.answers import Explanation, Neighbour
from tokenrec_jax.growth.catalogue import Catalogue


def explanation(
    catalogue: Catalogue,
    user: int,
    item: int,
    *,
    query: Float[np.ndarray, " emb"],
    vectors: Float[np.ndarray, "rows emb"],
    codes: Int[np.ndarray, "rows book"],
    weight: float,
) -> Explanation:
    """Returns how an item relates to what a user has interacted with, and how it scores.

    Args:
      catalogue: names users and items.
      user: its row.
      item: its row.
      query: of the user.
      vectors: unit vectors of the item, then of the user's history, then of anything.
      codes: of the same items.
      weight: what scores of the item are multiplied by.
    """
    history = catalogue.history(user)
    cosines = vectors[1 : 1 + len(history)] @ vectors[0]
    nearest = [
        Neighbour(
            item=catalogue.item_map.ids[history[at]],
            title=catalogue.titles[history[at]],
            cosine=float(cosines[at]),
            shared=tuple((codes[1 + at] == codes[0]).tolist()),
        )
        for at in np.argsort(-cosines, kind="stable")
        if history[at] != item
    ]
    return Explanation(
        user=catalogue.user_map.ids[user],
        item=catalogue.item_map.ids[item],
        title=catalogue.titles[item],
        score=weight * float(vectors[0] @ query / np.linalg.norm(query)),
        codes=tuple(codes[0].tolist()),
        nearest=tuple(nearest),
    )
