"""Items that nobody has touched: what content alone is worth, beside chance and popularity.

Read `measure_untouched`.
"""

from typing import Any

import numpy as np

from experiments.suites.holdout_ranks import rank_last, report
from experiments.suites.holdout_split import HeldOut
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.config import Config
from tokenrec_jax.recommender import Recommender

#: Items that a user is shown.
CUTOFF = 50


def measure_untouched(recommender: Recommender, part: HeldOut, *, config: Config) -> dict[str, Any] | None:
    """Returns HR and NDCG of held-out items that are added without a single interaction.

    Every interaction of a user of the training with such an item is a target, ranked against the whole catalogue after
    what the user had before it: three items or more, the target among them. Those that are the last of their users are
    counted apart, too: the protocol of everything else.

    Args:
      recommender: of the run that was trained without them; they are added to it.
      part: what was held out.
      config: of the run.

    Returns:
      None for a run without content.
    """
    if recommender.built.features is None and recommender.built.text is None:
        return None
    whole = part.whole
    items = part.items.tolist()
    said = {"titles": whole.item_titles, "attributes": whole.item_attributes, "texts": whole.item_texts}
    columns = {name: column and [column[item] for item in items] for name, column in said.items()}
    recommender.add_items([whole.item_ids[item] for item in items], **columns)
    user_rows = {user: row for row, user in enumerate(recommender.user_ids)}
    item_rows = {item: row for row, item in enumerate(recommender.item_ids)}
    lengths = np.diff(whole.indptr)
    users = np.repeat(np.arange(whole.num_users), lengths)
    place = np.arange(len(users)) - whole.indptr[users]
    prefixes, owners, last = [], [], []
    for at in np.flatnonzero(np.isin(whole.items, part.items) & part.known_users[users]).tolist():
        user = int(users[at])
        before = whole.history(user)[: place[at] + 1]
        prefix = [item_rows[name] for item in before if (name := whole.item_ids[item]) in item_rows]
        if len(prefix) > 2:
            prefixes.append(prefix)
            owners.append(user_rows[whole.user_ids[user]])
            last.append(place[at] == lengths[user] - 1)
    score = recommender.score_function()
    # Counts of the training, to which new items have added nothing.
    counts = popularity(recommender.interactions.without_last(2))
    arguments: dict[str, Any] = {"owners": owners, "config": config, "cutoff": CUTOFF}
    ours = rank_last(score, recommender.interactions, prefixes, **arguments)
    popular = rank_last(counts, recommender.interactions, prefixes, **arguments)
    is_last = np.array(last, bool)
    targets = np.array([prefix[-1] for prefix in prefixes], int)
    told: dict[str, Any] = {"unit": "items", "cutoff": CUTOFF, "seed": config.seed}
    return {
        "items": len(items),
        "content": report(ours[is_last], targets[is_last], **told),
        "content_anywhere": report(ours, targets, **told),
        "popularity_anywhere": report(popular, targets, **told),
        f"random_hr@{CUTOFF}": CUTOFF / recommender.interactions.num_items,
    }
