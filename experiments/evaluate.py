"""Evaluates a finished run again: another split or the prompt that it was not trained on.

  python -m experiments.evaluate --workdir=DIR --split=valid|test [--prompt=seen|unseen] [--output=DIR]

With --output every split that is held out is ranked; metrics and ranks are kept there as result.json and
ranks.safetensors.
"""

import json
import pathlib

from absl import flags, logging

from experiments import cli
from experiments.evaluation import (
    held_out_splits,
    model_scores,
    rank_arrays,
    ranked_splits,
    say_protocol,
    split_metrics,
    split_values,
)
from experiments.printing import left_out_notice
from experiments.training import SYSTEM
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.training.finished import FinishedRun
from tokenrec_jax.training.workdir import BUILT_ON, Workdir
from tokenrec_jax.types import ConfigError, Split

_MESH = cli.define_mesh(cli.OPENED_MESH)
_SPLIT = flags.DEFINE_enum("split", "test", [str(split) for split in Split], "Held-out interactions to rank.")
_PROMPT = flags.DEFINE_enum("prompt", "seen", ["seen", "unseen"], "Prompt template.")
_OUTPUT = flags.DEFINE_string("output", "", "Directory to keep metrics and ranks of all held-out splits in.")


def main() -> None:
    """Prints the metrics as JSON, and keeps them if asked to."""
    run = FinishedRun.open(cli.WORKDIR.value, mesh=_MESH())
    config, interactions = run.config, run.interactions
    say_protocol(config)
    base = Workdir(pathlib.Path(cli.WORKDIR.value))
    left_out = base.result().get("left_out")
    if left_out:
        logging.warning("%s", left_out_notice(left_out))
    held_out = held_out_splits(config)
    if _SPLIT.value not in held_out:
        allowed = ", ".join(held_out) or "none, as this run was trained on everything"
        raise ConfigError(f"--split={_SPLIT.value}: this run was trained on its items; allowed: {allowed}")
    output = Workdir(pathlib.Path(_OUTPUT.value))
    if _OUTPUT.value and output.begun:
        raise ConfigError(f"--output={output.path}: is the directory of a run; give one without")
    retriever = Retriever(run.built, mesh=run.mesh)
    scores = model_scores(retriever, run.params, run.buffers, interactions, config=config, prompt=_PROMPT.value)
    if _OUTPUT.value:
        outputs = ranked_splits(scores, interactions, config=config)
        result = {"dataset": interactions.name, "seed": config.seed, "system": SYSTEM, "prompt": _PROMPT.value}
        result |= {name: getattr(config.evaluation, name) for name in ("protocol", "graph", "held_out")}
        result |= split_values(outputs) | {BUILT_ON: base.result_hash()}
        # What a hold-out leaves out is missing here, too.
        result |= {"left_out": left_out} if left_out else {}
        try:
            output.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--output={output.path}: {error.strerror}; give one that can be written") from None
        output.save_result(result, ranks=rank_arrays({SYSTEM: outputs}))
        metrics = result[_SPLIT.value]
    else:
        split = Split(_SPLIT.value)
        metrics = split_metrics(scores[split], interactions, split, config=config)
    print(json.dumps({"split": _SPLIT.value, "prompt": _PROMPT.value, **metrics}, indent=2))


if __name__ == "__main__":
    cli.run(main)
