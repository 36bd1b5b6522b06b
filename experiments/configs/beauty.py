"""Beauty, one of the paper's four data sets.

Command: python -m experiments.train --config=experiments/configs/beauty.py:compact --workdir=runs/beauty
One core beside another run, seeds 0 to 2, 46 to 58 minutes: test HR@10 0.1039, NDCG@10 0.0626 (means).
"""

from experiments.configs import recipes
from tokenrec_jax.config import Config

TUNING = recipes.Tuning(
    steps=800,
    batch_size=256,
    learning_rate=0.001,
    dropout=0.4,
    temperature=0.05,
    eval_every=80,
    graph_temperature=0.15,
    graph_steps=500,
    embedding_dim=256,
    item_dropout=0.25,
    fold_in_recency=2.0,
    sent_residual=True,
    item_vector_length=0.5,
    bucket_batches=False,
    small_start=True,
    fold_in_dropout=0.2,
)


def get_config(argument: str = "compact") -> Config:
    """Returns the config; `argument` is the size of the language model, see `recipes.get_config`."""
    return recipes.get_config(argument, name="Beauty", book_size=512, max_history=20, tuning=TUNING)
