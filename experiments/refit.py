"""Trains a finished run once more, on what it was validated with too, for the steps that its validation chose.

  python -m experiments.refit --run=DIR --workdir=NEW [--held_out=1|0]

With --held_out=1 only the last item of each user is left out, and ranked: what a model is worth that has learned from
everything older than its targets, as EASE has, which solves for its weights anew. With --held_out=0 nothing is left out
and nothing measured: the model to serve. Settings and seed are those of the run; nothing of it is changed. Run the same
command again to resume.
"""

import copy
import pathlib

from absl import flags, logging

from experiments import cli
from experiments.printing import print_result
from experiments.training import run
from tokenrec_jax.config import Config
from tokenrec_jax.config_checks import validate
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError

_RUN = flags.DEFINE_string("run", "", "Working directory of the finished run.")
_HELD_OUT = flags.DEFINE_enum("held_out", "1", ["1", "0"], "Newest interactions of each user to leave out.")


def main() -> None:
    """Trains and reports."""
    if not _RUN.value:
        raise ConfigError("--run: not given; name the working directory of a finished run")
    source = Workdir.open_finished(_RUN.value, flag="--run")
    if pathlib.Path(cli.WORKDIR.value).resolve() == source.path.resolve():
        raise ConfigError(f"--workdir={cli.WORKDIR.value}: is the run itself; give a new directory")
    config = refit_config(source, held_out=int(_HELD_OUT.value))
    workdir = Workdir.start(cli.WORKDIR.value, config)
    if not workdir.finished:
        run(config, workdir, interactions=source.interactions())
    else:
        logging.info("%s: this run is finished", workdir.path)
    print_result(workdir)


def refit_config(source: Workdir, *, held_out: int) -> Config:
    """Returns the config of a finished run whose stages end where validation chose, with less held out.

    Args:
      source: the finished run.
      held_out: see `EvaluationConfig.held_out`.

    Raises:
      ConfigError: the run is a refit itself, chose its steps on test, or does not say which ones.
    """
    result = source.result()
    config = copy.deepcopy(source.config())
    if config.evaluation.held_out < 2:
        raise ConfigError(
            f"--run={source.path}: trained on its validation items itself; give the run that it came from"
        )
    if config.evaluation.protocol == "reference":
        raise ConfigError(f"--run={source.path}: protocol reference chose its steps by the test items; allowed: others")
    steps = result.get("steps", {})
    if missing := [name for name in config.stages if name not in steps]:
        raise ConfigError(
            f"{source.path / 'result.json'}: does not say after how many steps {', '.join(missing)} was best; "
            "it, or the run that it reused, was begun before that was written down; train it again"
        )
    for name in config.stages:
        getattr(config.train, name).stop_at = steps[name]
    config.evaluation.held_out = held_out
    config.evaluation.baselines = False
    validate(config)
    return config


if __name__ == "__main__":
    cli.run(main)
