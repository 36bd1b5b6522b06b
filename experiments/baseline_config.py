"""Config of a trained baseline: data and evaluation as of a TokenRec run, a model and a training of its own.

Read `BaselineConfig`, then `for_config`, which gives any TokenRec config's data set the settings that were chosen for
it. What was chosen, and what it scored, is in `configs/baselines_sasrec.py` and `configs/baselines_tiger.py`.
"""

import dataclasses
import importlib
from typing import Any, ClassVar, TypeVar

from tokenrec_jax.baselines.sasrec import SASRecConfig
from tokenrec_jax.baselines.tiger import TigerConfig
from tokenrec_jax.config import Config, DataConfig, EvaluationConfig, StageConfig, TrainConfig
from tokenrec_jax.config_checks import validate
from tokenrec_jax.data.sources import dataset_name
from tokenrec_jax.types import ConfigError

#: The step of a training is chosen by NDCG at this cutoff.
SELECTED_AT = 10

#: Config files of our own whose data sets have chosen settings, by name of the data set.
FILES = {
    "LastFM": "lastfm",
    "Beauty": "beauty",
    "ML1M": "ml1m",
    "Clothing": "clothing",
    "movielens-small": "quickstart",
    "synthetic": "tiny",
}


@dataclasses.dataclass
class BaselineTraining:
    """How a baseline is trained and when it stops."""

    optimization: StageConfig = dataclasses.field(default_factory=StageConfig)
    # Evaluations without a better validation NDCG@10 after which training stops; 0: never.
    patience: int = 5
    # Steps between metric lines, and between checkpoints.
    log_every: int = 50
    checkpoint_every: int = 500


@dataclasses.dataclass
class BaselineConfig:
    """What decides a run of any baseline; saved as config.json in its working directory."""

    # Seed of initialisation, order of the data and dropout.
    seed: int = 0
    # The data set, and how the baseline cuts its histories.
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: BaselineTraining = dataclasses.field(default_factory=BaselineTraining)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    # Settings of the model, of a type of its own for each baseline.
    model: Any = None
    #: "dense" where the model learns from every position of a history, "prompt" where from the one after it.
    objective: ClassVar[str]

    @property
    def built_on(self) -> str:
        """Working directory of the run that this one takes something from, or nothing."""
        return ""

    def loop_config(self) -> Config:
        """Returns what the data pipeline and the loop read, checked.

        Raises:
          ConfigError: a value is not allowed.
        """
        config = Config(seed=self.seed, stages=("llm",), data=self.data, evaluation=self.evaluation)
        config.llm.objective, config.llm.user_tokens = self.objective, "none"
        config.train = TrainConfig(
            llm=self.training.optimization,
            patience=self.training.patience,
            log_every=self.training.log_every,
            checkpoint_every=self.training.checkpoint_every,
        )
        validate(config)
        self.model.validate()
        held_out, stop_at = self.evaluation.held_out, self.training.optimization.stop_at
        if held_out < 2 and not stop_at:
            raise ConfigError(
                f"evaluation.held_out is {held_out} and training.optimization.stop_at 0; with it, allowed is the step "
                "that another run chose on validation"
            )
        return config


@dataclasses.dataclass
class SASRecRun(BaselineConfig):
    """A run of SASRec."""

    model: SASRecConfig = dataclasses.field(default_factory=SASRecConfig)
    objective = "dense"


@dataclasses.dataclass
class TigerRun(BaselineConfig):
    """A run of TIGER."""

    model: TigerConfig = dataclasses.field(default_factory=TigerConfig)
    # Working directory of a finished TokenRec run on the same items whose codes are written; empty: codes of k-means on
    # spectral vectors of the interactions.
    codes: str = ""
    objective = "prompt"

    @property
    def built_on(self) -> str:
        """That of its codes."""
        return self.codes

    def loop_config(self) -> Config:
        """As for any baseline, without the cutoffs that the beam does not reach: below it nothing is ranked."""
        config = super().loop_config()
        if self.model.beam < SELECTED_AT:
            raise ConfigError(f"model.beam is {self.model.beam}; allowed is {SELECTED_AT} or more")
        reached = tuple(cutoff for cutoff in self.evaluation.cutoffs if cutoff <= self.model.beam)
        config.evaluation = dataclasses.replace(self.evaluation, cutoffs=reached)
        return config


Run = TypeVar("Run", bound=BaselineConfig)

#: The runs by the name of their system.
SYSTEMS: dict[str, type[BaselineConfig]] = {"sasrec": SASRecRun, "tiger": TigerRun}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a baseline chooses for a data set.

    Attributes:
      model: its settings; each run gets a copy.
      buckets: padded lengths of histories, the longest one last.
      optimization: steps are an upper bound where `patience` ends a run; a checkpoint comes with each evaluation.
    """

    model: Any
    buckets: tuple[int, ...]
    optimization: StageConfig


def chosen_run(kind: type[Run], chosen: Chosen, *, name: str) -> Run:
    """Returns a run of a baseline with what was chosen for a data set.

    Args:
      kind: of the run.
      chosen: for the data set.
      name: of the data set in `FILES`; empty: the default data set.

    Raises:
      ConfigError: there is no such file.
    """
    run = kind(
        model=dataclasses.replace(chosen.model),
        training=BaselineTraining(
            optimization=dataclasses.replace(chosen.optimization),
            checkpoint_every=chosen.optimization.eval_every,
        ),
    )
    if name:
        base = of_file(name)
        run.data, run.evaluation = base.data, base.evaluation
    else:
        # Batches of one length mislead a baseline as they do a TokenRec.
        run.data.bucket_batches = False
    run.data.max_history, run.data.history_buckets = chosen.buckets[-1], chosen.buckets
    return run


def of_file(name: str) -> Config:
    """Returns the small TokenRec config of one of `FILES`, for its data set.

    Raises:
      ConfigError: there is no such file.
    """
    if name not in FILES.values():
        raise ConfigError(f"data set {name!r}: allowed: {', '.join(FILES.values())}")
    module = importlib.import_module(f"experiments.configs.{name}")
    return module.get_config("tiny" if name == "tiny" else "compact")


def for_config(system: str, config: Config) -> BaselineConfig:
    """Returns the settings of a baseline for the data set, the split, the ranking and the seed of a TokenRec config."""
    module = importlib.import_module(f"experiments.configs.baselines_{system}")
    chosen: BaselineConfig = module.get_config(FILES.get(dataset_name(config.data), ""))
    data = dataclasses.replace(
        config.data,
        max_history=chosen.data.max_history,
        history_buckets=chosen.data.history_buckets,
        bucket_batches=chosen.data.bucket_batches,
    )
    return dataclasses.replace(chosen, seed=config.seed, data=data, evaluation=config.evaluation)
