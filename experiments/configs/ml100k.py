"""MovieLens 100k: the quickstart's recipe; the data set was never looked at.

Command: python -m experiments.train --config=experiments/configs/ml100k.py --workdir=runs/ml100k
tensorflow-datasets downloads it. Where it lies in a folder in the reference layout, add --config.data.source=tokenrec
--config.data.path=FOLDER --config.data.min_interactions=0.
"""

from experiments.configs import quickstart
from tokenrec_jax import config as c


def get_config(argument: str = "compact") -> c.Config:
    """Returns the config; `argument` is a preset of the language model."""
    config = quickstart.get_config(argument)
    config.data.source, config.data.path = "movielens", "100k"
    return config
