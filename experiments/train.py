"""Trains a TokenRec: all stages of a config, resumable, then reports it beside baselines.

  python -m experiments.train --config=experiments/configs/quickstart.py --workdir=runs/quickstart [--config.a.b=value]

Run the same command again to resume; on a finished run it prints the result again.
"""

import pathlib

from absl import flags, logging

from experiments import cli
from experiments.printing import print_result
from experiments.training import run
from tokenrec_jax.training.workdir import Workdir

_CONFIG = cli.define_config()
_REUSE = flags.DEFINE_string(
    "reuse",
    "",
    "Working directory of another run, whose ended stages a new run takes over where data, seed and settings agree.",
)


def main() -> None:
    """Trains what the flags say."""
    config = _CONFIG()
    workdir = Workdir.start(cli.WORKDIR.value, config)
    if not workdir.finished:
        run(config, workdir, donor=pathlib.Path(_REUSE.value) if _REUSE.value else None)
    else:
        logging.info("%s: this run is finished", workdir.path)
    print_result(workdir)


if __name__ == "__main__":
    cli.run(main)
