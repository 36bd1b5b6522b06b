"""LastFM, one of the paper's four data sets.

Command: python -m experiments.train --config=experiments/configs/lastfm.py:compact --workdir=runs/lastfm
One core, seeds 0 to 2, 7 to 11 minutes: test HR@10 0.0997, NDCG@10 0.0509 (means). With `learning_rate=0.001,
sent_residual=True, item_dropout=0.2` it is better on the targets before, and worse on these: experiments/README.md.
"""

from experiments.configs import recipes
from tokenrec_jax.config import Config

_TUNING = recipes.Tuning(
    steps=150,
    batch_size=128,
    learning_rate=0.0001,
    dropout=0.5,
    temperature=0.1,
    eval_every=15,
    graph_temperature=0.2,
    graph_steps=400,
    bucket_batches=False,
)


def get_config(argument: str = "compact") -> Config:
    """Returns the config; `argument` is the size of the language model, see `recipes.get_config`."""
    return recipes.get_config(argument, name="LastFM", book_size=256, max_history=50, tuning=_TUNING)
