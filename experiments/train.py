"""Trains a TokenRec: all stages of a config, resumable, then reports it beside baselines.

  python -m experiments.train --config=experiments/configs/quickstart.py --workdir=runs/quickstart [--config.a.b=value]

Run the same command again to resume; on a finished run it prints the result again.
"""

from absl import logging

from experiments import cli
from experiments.report import print_result
from experiments.training import run
from tokenrec_jax.training.workdir import Workdir

_CONFIG = cli.define_config()


def main() -> None:
    """Trains what the flags say."""
    config = _CONFIG()
    workdir = Workdir.start(cli.WORKDIR.value, config)
    if not workdir.finished:
        run(config, workdir)
    else:
        logging.info("%s: this run is finished", workdir.path)
    print_result(workdir)


if __name__ == "__main__":
    cli.run(main)
