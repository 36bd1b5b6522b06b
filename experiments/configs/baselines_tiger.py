"""TIGER-style generator for each data set; chosen on validation.

Command: python -m experiments.baseline --baseline=tiger --config=experiments/configs/baselines_tiger.py:lastfm
           --workdir=runs/tiger-lastfm [--codes=runs/lastfm]
"""

import dataclasses

from experiments.baseline_config import BaselineTraining, TigerRun, of_file
from tokenrec_jax.baselines.tiger import TigerConfig
from tokenrec_jax.config import DataConfig, StageConfig


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """What differs between data sets; steps are an upper bound where `patience` ends a run."""

    buckets: tuple[int, ...] = (5, 10, 20)
    steps: int = 10_000
    batch_size: int = 128
    eval_every: int = 500
    learning_rate: float = 3e-3
    dropout: float = 0.1
    book_size: int = 256
    size: str = "compact"
    vector_dim: int = 64


_DEFAULT = _Chosen()
_BEAUTY = _Chosen(book_size=512, steps=20_000, eval_every=1000, dropout=0.2)
_CHOSEN = {
    "beauty": _BEAUTY,
    # Never looked at.
    "clothing": _BEAUTY,
    "lastfm": _Chosen(dropout=0.2, steps=6000, eval_every=500),
    "tiny": _Chosen(
        buckets=(6, 12), steps=60, batch_size=32, eval_every=30, book_size=16, size="tiny", vector_dim=16, dropout=0.0
    ),
}


def get_config(argument: str = "lastfm") -> TigerRun:
    """Returns the run; `argument` is a config file's name of the data set (`lastfm`), or empty for settings alone."""
    chosen = _CHOSEN.get(argument, _DEFAULT)
    run = TigerRun()
    if argument:
        base = of_file(argument)
        run.data, run.evaluation = base.data, base.evaluation
    else:
        run.data = DataConfig()
    run.data.max_history, run.data.history_buckets = chosen.buckets[-1], chosen.buckets
    run.model = TigerConfig(
        size=chosen.size, dropout=chosen.dropout, book_size=chosen.book_size, vector_dim=chosen.vector_dim
    )
    run.training = BaselineTraining(
        optimization=StageConfig(
            steps=chosen.steps,
            batch_size=chosen.batch_size,
            learning_rate=chosen.learning_rate,
            eval_every=chosen.eval_every,
        ),
        checkpoint_every=chosen.eval_every,
    )
    return run
