"""Evaluates a finished run again: another split or the prompt that it was not trained on.

python -m experiments.evaluate --workdir=DIR --split=valid|test [--prompt=seen|unseen]
"""

import json

from absl import flags

from experiments import cli
from experiments.evaluation import split_metrics
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import Split

_SPLIT = flags.DEFINE_enum("split", "test", [str(split) for split in Split], "Held-out interactions to rank.")
_PROMPT = flags.DEFINE_enum("prompt", "seen", ["seen", "unseen"], "Prompt template.")


def main() -> None:
    """Prints the metrics as JSON."""
    recommender = Recommender.load(cli.WORKDIR.value)
    metrics = split_metrics(
        recommender.score_function(prompt=_PROMPT.value),
        recommender.interactions,
        Split(_SPLIT.value),
        config=Workdir.open_finished(cli.WORKDIR.value).config(),
    )
    print(json.dumps({"split": _SPLIT.value, "prompt": _PROMPT.value, **metrics}, indent=2))


if __name__ == "__main__":
    cli.run(main)
