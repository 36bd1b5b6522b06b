"""LastFM with the paper's settings.

Command: python -m experiments.train --config=experiments/configs/lastfm.py:compact --workdir=runs/lastfm
"""

from experiments.configs import paper
from tokenrec_jax.config import Config


def get_config(argument: str = "t5-small") -> Config:
    """Returns the config; `argument` is the size of the language model, see `paper.get_config`."""
    return paper.get_config(argument, name="LastFM", book_size=256)
