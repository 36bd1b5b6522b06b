"""TokenRec in JAX: tokenized users and items, a language model that generates one query, exact retrieval.

The map, from the bottom up; a layer imports only what is below it:

  types, numerics, config   words and errors; shared maths; typed configuration
  sharding                  device mesh, partition rules, batch layout
  data                      files -> interactions -> graphs, batches, prompts
  models                    graph encoder, tokenizers, language models, and their composite `models/tokenrec.py`
  retrieval                 item index and exact top-k; knows vectors and ids only
  training                  losses, the one train step, stages, loop, checkpoints
  evaluation, baselines     ranking under an honest protocol; what to beat
  retriever, growth         the programs of queries and index; new interactions, users and items without training
  requests, recommender     padded requests; a finished run as an object that grows

Start with `training/step.py` to see what is learned, with `recommender.py` to use it.
"""

import os
from typing import TYPE_CHECKING, Any

# Read when transformers is imported: that PyTorch is missing is as it should be.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from tokenrec_jax.config import Config
from tokenrec_jax.types import ConfigError, DataError, Split, Stage, TokenRecError

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "Recommendation",
    "Recommender",
    "Split",
    "Stage",
    "TokenRecError",
]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tokenrec_jax.recommender import Recommendation, Recommender


def __getattr__(name: str) -> Any:
    """Imports the recommender when it is asked for: it brings the whole package with it."""
    if name in ("Recommendation", "Recommender"):
        from tokenrec_jax import recommender

        return getattr(recommender, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
