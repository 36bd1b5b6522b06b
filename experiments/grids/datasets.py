"""Data sets that the grids run on, and what they need to know of each. Read `choose`."""

import dataclasses

from experiments.ablation.configs import make_config
from tokenrec_jax.config import Config
from tokenrec_jax.types import ConfigError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set as the grids see it.

    Attributes:
      name: for titles.
      config: FILE:ARGUMENT of its recipe.
      window: `data.max_history` of the recipe.
      targets: what an example of the dense objective has of them on average: all training targets divided by the
        windows that hold them.
    """

    name: str
    config: str
    window: int
    targets: float

    def recipe(self) -> Config:
        """Returns the config of the recipe."""
        return make_config(self.config, {})

    def prompt_steps(self) -> dict[str, int]:
        """Returns overrides with which the prompt objective sees as many targets as the recipe's dense one.

        Raises:
          ConfigError: the recipe cuts histories otherwise than when targets were counted.
        """
        recipe = self.recipe()
        if recipe.data.max_history != self.window:
            raise ConfigError(
                f"{self.config}: data.max_history is {recipe.data.max_history}; targets were counted with "
                f"{self.window}, count them again in experiments/grids/datasets.py"
            )
        stage = recipe.train.llm
        return {
            "train.llm.steps": round(stage.steps * self.targets),
            # So that `train.patience` counts in targets, too.
            "train.llm.eval_every": round(stage.eval_every * self.targets),
        }


_FOLDER = "experiments/configs"
_DATASETS = {
    "lastfm": Dataset("LastFM", f"{_FOLDER}/lastfm.py:compact", window=50, targets=28.6),
    "beauty": Dataset("Beauty", f"{_FOLDER}/beauty.py:compact", window=20, targets=5.6),
    "ml1m": Dataset("ML-1M", f"{_FOLDER}/ml1m.py:compact", window=100, targets=75.2),
    "quickstart": Dataset("MovieLens-small", f"{_FOLDER}/quickstart.py:compact", window=50, targets=42.3),
    "tiny": Dataset("synthetic", f"{_FOLDER}/tiny.py:tiny", window=12, targets=8.2),
}


def choose(argument: str) -> Dataset:
    """Returns the data set that the argument of a grid names: `lastfm`, or with a size of its model `lastfm:t5-small`.

    Raises:
      ConfigError: there is no such data set.
    """
    name, _, size = argument.partition(":")
    if name not in _DATASETS:
        raise ConfigError(f"data set {name!r}: allowed: {', '.join(_DATASETS)}")
    found = _DATASETS[name]
    if not size:
        return found
    return dataclasses.replace(found, config=f"{found.config.partition(':')[0]}:{size}")
