"""Writes the language model of a finished run as a folder that `transformers` loads.

python -m experiments.export --workdir=DIR --output=FOLDER
"""

from absl import flags

from experiments import cli
from tokenrec_jax.export import export
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.types import ConfigError

_OUTPUT = flags.DEFINE_string("output", "", "Folder to make.")


def main() -> None:
    """Exports and says where."""
    if not _OUTPUT.value:
        raise ConfigError("--output: not given; name the folder to make")
    export(Recommender.load(cli.WORKDIR.value), _OUTPUT.value)
    print(f"exported to {_OUTPUT.value}: model, tokenizer, users.tsv, items.tsv, tokenrec.safetensors")


if __name__ == "__main__":
    cli.run(main)
