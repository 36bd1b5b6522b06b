"""Trains without some users and items, adds them to the finished run, and reports how they fare beside those seen.

  python -m experiments.holdout --config=experiments/configs/quickstart.py --workdir=runs/holdout [--fraction=0.05]
      [--by=random|activity]

Run the same command again to resume; on a finished run it only measures. The figures are printed and written to
DIR/holdout.json.
"""

import json

from absl import flags

from experiments import cli
from experiments.suites import holdout
from experiments.suites.holdout_split import CHOICES
from tokenrec_jax.data.files import write_whole
from tokenrec_jax.processes import is_main
from tokenrec_jax.training.workdir import Workdir

_CONFIG = cli.define_config()
_FRACTION = flags.DEFINE_float("fraction", 0.05, "Share of the users, and of the items, to hold out.")
_BY = flags.DEFINE_enum(
    "by", "random", CHOICES, "Which users to hold out: drawn, or those with the fewest interactions. Items are drawn."
)


def main() -> None:
    """Trains if need be and reports."""
    config = _CONFIG()
    # A finished run would let the last items of those seen through its graph, which are targets here.
    config.evaluation.graph = "training"
    workdir = Workdir.start(cli.WORKDIR.value, config)
    text = json.dumps(holdout.measure(config, workdir, fraction=_FRACTION.value, by=_BY.value), indent=2)
    if is_main():
        write_whole(workdir.path / "holdout.json", text + "\n")
    print(text)


if __name__ == "__main__":
    cli.run(main)
