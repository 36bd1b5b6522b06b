"""Whose finished stages a job may take over. Read `choose_donor`.

Cells of a grid mostly differ in the last stage only. `experiments.train --reuse=DIR` takes the stages that two runs
have in common and trains the rest; which run to name is decided here, from configs alone. A bad choice costs time only.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from tokenrec_jax.config import Config
from tokenrec_jax.training.reuse import shared_stages

#: Fields of `data` that do not change which interactions there are.
_HOW_READ = (
    "cache_dir",
    "max_history",
    "history_buckets",
    "bucket_batches",
    "title_column",
    "feature_columns",
    "text_columns",
)


def choose_donor(config: Config, finished: Mapping[pathlib.Path, Config]) -> pathlib.Path | None:
    """Returns the finished run that shares most stages with a config, the first of equals; None if none shares any.

    Args:
      config: of the run to come.
      finished: configs of finished runs, by their directory.
    """
    counts = {
        folder: len(shared_stages(config, other)) for folder, other in finished.items() if _same_data(config, other)
    }
    best = max(counts, key=lambda folder: counts[folder], default=None)
    return best if best is not None and counts[best] else None


def _same_data(one: Config, other: Config) -> bool:
    return _data(one) == _data(other)


def _data(config: Config) -> tuple[object, ...]:
    fields = dataclasses.asdict(config.data)
    return (
        # The other protocols change the order of the data, or what may be seen of it.
        config.evaluation.protocol,
        *(value for name, value in fields.items() if name not in _HOW_READ),
    )
