"""Writes a finished run as a folder that others load.

python -m experiments.export --workdir=DIR --output=FOLDER [--format=huggingface|portable|bundle] [--k=100]

  huggingface  language model and tokenizer as `transformers` loads them, tokens of all users and items beside
  portable     a StableHLO program with query and search for CPU, CUDA and TPU, for anybody who has jax and numpy
  bundle       what recommending needs and nothing else: `Recommender.load(FOLDER)`, and all mains, take it for the run
"""

from absl import flags

from experiments import cli
from tokenrec_jax.export import export
from tokenrec_jax.portable.artefact import export_portable
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError

_OUTPUT = flags.DEFINE_string("output", "", "Folder to make.")
_FORMAT = flags.DEFINE_enum("format", "huggingface", ["huggingface", "portable", "bundle"], "What to make.")
_K = flags.DEFINE_integer("k", 100, "How many items the portable program returns.")


def main() -> None:
    """Exports and says where."""
    if not _OUTPUT.value:
        raise ConfigError("--output: not given; name the folder to make")
    if _K.value < 1:
        raise ConfigError(f"--k={_K.value}: allowed is 1 or more")
    if _FORMAT.value == "bundle":
        Workdir.open_finished(cli.WORKDIR.value).copy_model(_OUTPUT.value)
        made = "config.json, dataset, language_model, checkpoints/final, result.json"
    elif _FORMAT.value == "portable":
        export_portable(Recommender.load(cli.WORKDIR.value), _OUTPUT.value, k=_K.value)
        made = "program.bin, weights.npz, about.json, loader.py, flatbuffers.zip"
    else:
        export(Recommender.load(cli.WORKDIR.value), _OUTPUT.value)
        made = "model, tokenizer, users.tsv, items.tsv, tokenrec.safetensors"
    print(f"exported to {_OUTPUT.value}: {made}")


if __name__ == "__main__":
    cli.run(main)
