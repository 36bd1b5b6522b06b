"""TIGER-style generator for each data set; the settings are guesses, none was tuned.

LastFM, seed 0, codes of a TokenRec run, 63 minutes on a core: validation HR@10 / NDCG@10 0.0651 / 0.0361, test 0.0514 /
0.0304.

Command: python -m experiments.baseline --baseline=tiger --config=experiments/configs/baselines_tiger.py:lastfm
           --workdir=runs/tiger-lastfm [--codes=runs/lastfm]
"""

from experiments.baseline_config import Chosen, TigerRun, chosen_run
from tokenrec_jax.baselines.tiger import TigerConfig
from tokenrec_jax.config import StageConfig

_BUCKETS = (5, 10, 20)
_DEFAULT = Chosen(TigerConfig(dropout=0.1), _BUCKETS, StageConfig(steps=10_000, batch_size=128, learning_rate=3e-3))
_BEAUTY = Chosen(
    TigerConfig(dropout=0.2, book_size=512),
    _BUCKETS,
    StageConfig(steps=20_000, batch_size=128, learning_rate=3e-3, eval_every=1000),
)
_SMALL = Chosen(TigerConfig(dropout=0.2), _BUCKETS, StageConfig(steps=6000, batch_size=128, learning_rate=3e-3))
_CHOSEN = {
    "beauty": _BEAUTY,
    # Never looked at.
    "clothing": _BEAUTY,
    "lastfm": _SMALL,
    "quickstart": _SMALL,
    "tiny": Chosen(
        TigerConfig(size="tiny", dropout=0.0, book_size=16, vector_dim=16),
        (6, 12),
        StageConfig(steps=60, batch_size=32, learning_rate=3e-3, eval_every=30),
    ),
}


def get_config(argument: str = "lastfm") -> TigerRun:
    """Returns the run; `argument` is a config file's name of the data set (`lastfm`), or empty for settings alone."""
    return chosen_run(TigerRun, _CHOSEN.get(argument, _DEFAULT), name=argument)
