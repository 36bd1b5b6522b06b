"""Recommendations of a finished run: printed for one user, or a Parquet file for all of them.

  python -m experiments.recommend --workdir=DIR --user=ORIGINAL_ID --k=10
  python -m experiments.recommend --workdir=DIR --all --k=50 --output=recs.parquet

The file has the columns user, rank, item, title, score. Stopped at any time, the same command goes on. Several
processes share the work with the flags of experiments.train.
"""

import pathlib

from absl import flags, logging

from experiments import cli
from tokenrec_jax.bulk.job import recommend_all
from tokenrec_jax.bulk.ranking import BulkRanker
from tokenrec_jax.data.files import content_hash
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.types import ConfigError

_MESH = cli.define_mesh(cli.OPENED_MESH)
_USER = flags.DEFINE_string("user", "", "Original id of the user.")
_ALL = flags.DEFINE_bool("all", False, "Every user; needs --output.")
_OUTPUT = flags.DEFINE_string("output", "", "Parquet file to make, with --all.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the output, and drop parts of another job beside it.")
_K = flags.DEFINE_integer("k", 10, "How many items.")
_EXCLUDE_SEEN = flags.DEFINE_bool("exclude_seen", True, "Leave out what a user has interacted with.")
_PROMPT = flags.DEFINE_enum("prompt", "seen", ["seen", "unseen"], "Template of the prompt, with --all.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Users a batch, with --all; 0: evaluation.batch_size of the run.")


def main() -> None:
    """Prints rank, id, title and score of one user, or writes the file of all."""
    _check_flags()
    recommender = Recommender.load(cli.WORKDIR.value, mesh=_MESH())
    if _ALL.value:
        _write(recommender)
        return
    found = recommender.recommend([_USER.value], k=_K.value, exclude_seen=_EXCLUDE_SEEN.value)[0]
    for rank, each in enumerate(found, start=1):
        print(f"{rank:3}  {each.item:12}  {each.title:60}  {each.score:.4f}")


def _check_flags() -> None:
    if _ALL.value == bool(_USER.value):
        given = "given beside --all" if _ALL.value else "not given"
        raise ConfigError(f"--user: {given}; name one user by the id that the data has, or give --all")
    if _ALL.value != bool(_OUTPUT.value):
        raise ConfigError("--output: goes with --all; give both or neither")
    if _PROMPT.value != "seen" and not _ALL.value:
        raise ConfigError(f"--prompt={_PROMPT.value}: goes with --all")
    if _K.value < 1:
        raise ConfigError(f"--k={_K.value}: allowed is 1 or more")
    if _BATCH_SIZE.value < 0:
        raise ConfigError(f"--batch_size={_BATCH_SIZE.value}: allowed is 0 or more")


def _write(recommender: Recommender) -> None:
    done = recommend_all(
        BulkRanker.of(recommender, batch_size=_BATCH_SIZE.value),
        _OUTPUT.value,
        k=_K.value,
        # Written last in a run; no two runs have the same seconds in it.
        model=content_hash(pathlib.Path(cli.WORKDIR.value) / "result.json"),
        exclude_seen=_EXCLUDE_SEEN.value,
        prompt=_PROMPT.value,
        overwrite=_OVERWRITE.value,
    )
    logging.info("ranked %d users in %.1f s", done.ranked_users, done.seconds)
    print(f"{_OUTPUT.value}: up to {done.k} items for each of {done.users} users")


if __name__ == "__main__":
    cli.run(main)
