"""Clothing, one of the paper's four data sets.

Its tuning is Beauty's, with as many passes over its 39,387 users and 278,677 interactions: the data set was never
looked at.

Command: python -m experiments.train --config=experiments/configs/clothing.py:compact --workdir=runs/clothing
"""

import dataclasses

from experiments.configs import beauty, recipes
from tokenrec_jax.config import Config

_TUNING = dataclasses.replace(beauty.TUNING, steps=1400, eval_every=140, graph_steps=650)


def get_config(argument: str = "compact") -> Config:
    """Returns the config; `argument` is the size of the language model, see `recipes.get_config`."""
    return recipes.get_config(argument, name="Clothing", book_size=512, max_history=20, tuning=_TUNING)
