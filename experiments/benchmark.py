"""Measures speed side by side in one process and prints ratios; a claim of speed is made with nothing else.

  python -m experiments.benchmark --suite=objectives --config=experiments/configs/lastfm.py:compact [--output=FILE.json]

Suites:
  objectives  targets a second of the dense and the prompt objective
  dispatch    host work of a train step
  softmax     the retrieval loss and its gradients against optax, targets of the config's batches
  inference   users a second against PyTorch and beam search; a config such as lastfm.py:paper-scratch:t5-small
  retrieval   exact search against faiss; reads nothing of the config
  serving     the server with 200 clients; serves the finished run in --workdir and reads nothing of the config
"""

import json
import pathlib

from absl import flags

from experiments import cli
from experiments.suites import dispatch, inference, objectives, retrieval, serving, softmax
from experiments.suites.machine import machine
from tokenrec_jax.types import ConfigError

_CONFIG = cli.define_config()
_SUITES = {
    "objectives": objectives.measure,
    "dispatch": dispatch.measure,
    "softmax": softmax.measure,
    "inference": inference.measure,
    "retrieval": retrieval.measure,
    "serving": serving.measure,
}
_SUITE = flags.DEFINE_enum("suite", "objectives", list(_SUITES), "What to measure.")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures; empty: standard output only.")


def main() -> None:
    """Runs a suite and prints its figures with the machine that gave them."""
    result = {"suite": _SUITE.value, "machine": machine(), **_SUITES[_SUITE.value](_CONFIG())}
    text = json.dumps(result, indent=2)
    print(text)
    if _OUTPUT.value:
        try:
            pathlib.Path(_OUTPUT.value).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output={_OUTPUT.value}: {error.strerror}; name a file that can be written") from None


if __name__ == "__main__":
    cli.run(main)
