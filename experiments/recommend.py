"""Prints recommendations of a finished run for one user.

python -m experiments.recommend --workdir=DIR --user=ORIGINAL_ID --k=10
"""

from absl import flags

from experiments import cli
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.types import ConfigError

_USER = flags.DEFINE_string("user", "", "Original id of the user.")
_K = flags.DEFINE_integer("k", 10, "How many items.")


def main() -> None:
    """Prints rank, id, title and score."""
    if not _USER.value:
        raise ConfigError("--user: not given; name a user by the id that the data has")
    if _K.value < 1:
        raise ConfigError(f"--k={_K.value}: allowed is 1 or more")
    recommender = Recommender.load(cli.WORKDIR.value)
    for rank, found in enumerate(recommender.recommend([_USER.value], k=_K.value)[0], start=1):
        print(f"{rank:3}  {found.item:12}  {found.title:60}  {found.score:.4f}")


if __name__ == "__main__":
    cli.run(main)
