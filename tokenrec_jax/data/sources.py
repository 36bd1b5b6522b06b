"""From a `DataConfig` to validated `Interactions`: chooses a reader, prepares once, reads that later.

Read `load_interactions` first; it is what everyone calls. What the readers accept is told in
`reference_layout.py`, `interaction_files.py`, `movielens.py` and `synthetic.py`; the prepared form in
`tfds_builders.py`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re

import tensorflow_datasets as tfds
from absl import logging

from tokenrec_jax.config import SOURCES, DataConfig
from tokenrec_jax.data import movielens, reference_layout
from tokenrec_jax.data.files import content_hash, new_folder, require_file
from tokenrec_jax.data.interaction_files import ADVICE, read_interaction_file
from tokenrec_jax.data.interaction_table import InteractionTable, assemble, describe_dropped
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.data.tfds_builders import FORMAT_VERSION, read_prepared, write_prepared
from tokenrec_jax.types import ConfigError, DataError

# Fields that do not change what is kept. The path counts through the content of its files.
_IRRELEVANT = ("path", "cache_dir", "drop_newest", "max_history", "history_buckets", "bucket_batches")


def load_interactions(config: DataConfig) -> Interactions:
    """Returns the data set that a config describes.

    The first call reads and checks the source and keeps it as ArrayRecord files in the cache, in a folder
    named after a fingerprint of the options and of the files' content; later calls read that. A failure
    leaves nothing there, and processes that prepare the same set at once do not disturb each other.

    Raises:
      ConfigError: an option is unknown or does not fit the source.
      DataError: a file is missing or holds what is not allowed, or the cache cannot be written.
    """
    _check(config)
    config = dataclasses.replace(config, name=dataset_name(config))
    cache = cache_folder(config)
    folder = cache / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', config.name)}-{_fingerprint(config)}"
    if folder.is_dir():
        interactions = read_prepared(folder)
    else:
        interactions = read_source(config)
        try:
            with new_folder(folder) as temporary:
                write_prepared(interactions, folder=temporary)
        except OSError as error:
            raise DataError(
                f"{cache}: cannot keep prepared data here ({error.strerror}); set data.cache_dir or "
                "$TOKENREC_CACHE to a folder that may be written and has space"
            ) from None
    interactions = interactions.ended_earlier(config.drop_newest)
    kept = len(interactions.items)
    logging.info(
        "%s: %d users, %d items, %d interactions; %s",
        interactions.name,
        interactions.num_users,
        interactions.num_items,
        kept,
        describe_dropped(interactions.dropped, kept=kept),
    )
    return interactions


def read_source(config: DataConfig) -> Interactions:
    """Reads and validates a source, without the cache of prepared sets.

    Raises:
      ConfigError: an option is unknown or does not fit the source.
      DataError: a file is missing or holds what is not allowed.
    """
    _check(config)
    name = dataset_name(config)
    if config.source == "synthetic":
        return synthetic_interactions(
            name=name,
            num_users=config.synthetic_users,
            num_items=config.synthetic_items,
            seed=config.synthetic_seed,
        )
    if config.source == "tokenrec":
        return reference_layout.read_reference_layout(_source_path(config), name=name)
    return assemble(
        _read_table(config),
        name=name,
        where=config.path if config.source == "interactions" else f"source {config.source}",
        min_rating=config.min_rating,
        min_interactions=config.min_interactions,
    )


def _read_table(config: DataConfig) -> InteractionTable:
    """Returns the rows of a source that is still to be filtered."""
    if config.source == "interactions":
        return read_interaction_file(_source_path(config), config=config)
    if config.source == "movielens-small":
        return movielens.movielens_small_table()
    return movielens.movielens_table(variant=config.path, cache=cache_folder(config))


def dataset_name(config: DataConfig) -> str:
    """Returns `config.name`, or a name made from source and path: `LastFM`, `movielens-1m`, `synthetic`."""
    if config.name:
        return config.name
    if config.source == "movielens":
        return f"movielens-{config.path}"
    if config.source in ("tokenrec", "interactions"):
        return pathlib.Path(config.path).expanduser().resolve().stem
    return config.source


def cache_folder(config: DataConfig) -> pathlib.Path:
    """Returns where prepared sets are kept: `cache_dir`, else the default."""
    return pathlib.Path(config.cache_dir).expanduser() if config.cache_dir else default_cache()


def default_cache() -> pathlib.Path:
    """Returns where what was made once is kept: $TOKENREC_CACHE, else ~/.cache/tokenrec_jax."""
    return pathlib.Path(os.environ.get("TOKENREC_CACHE") or "~/.cache/tokenrec_jax").expanduser()


def _source_path(config: DataConfig) -> pathlib.Path:
    """Returns the file or folder of the sources that have one; that it is there, their readers check."""
    if config.path:
        return pathlib.Path(config.path).expanduser()
    return pathlib.Path(os.environ["TOKENREC_DATA"]).expanduser() / config.name


def _check(config: DataConfig) -> None:
    """Raises a ConfigError about options that do not fit each other or the source."""
    if config.source not in SOURCES:
        raise ConfigError(f"data.source {config.source!r} is unknown; allowed are {', '.join(SOURCES)}")
    if min(config.min_rating, config.min_interactions, config.drop_newest) < 0:
        raise ConfigError(
            f"data.min_rating {config.min_rating:g}, data.min_interactions {config.min_interactions}, data.drop_newest "
            f"{config.drop_newest}; 0 or more is due"
        )
    if config.source in ("tokenrec", "synthetic") and (config.min_rating or config.min_interactions):
        raise ConfigError(
            f"data.min_rating and data.min_interactions do not apply to source {config.source}, which is "
            "used as it is; set them to 0"
        )
    if config.source == "movielens" and config.path not in movielens.VARIANTS:
        raise ConfigError(
            f"data.path {config.path!r} is no MovieLens variant; allowed: {', '.join(movielens.VARIANTS)}"
        )
    if config.source == "interactions" and not config.path:
        raise ConfigError(f"data.path is empty; {ADVICE}")
    if config.source == "tokenrec" and not config.path and not (config.name and os.environ.get("TOKENREC_DATA")):
        raise ConfigError(f"data.path is empty, and $TOKENREC_DATA or data.name is not set; {reference_layout.ADVICE}")


def _fingerprint(config: DataConfig) -> str:
    """Returns 16 hexadecimal digits that change with the options, the files' content or our own format."""
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in _IRRELEVANT}
    origin: object = None
    if config.source == "tokenrec":
        files = reference_layout.layout_files(_source_path(config))
        origin = [(file.name, file.stat().st_size, content_hash(file)) for file in files]
    elif config.source == "interactions":
        file = require_file(_source_path(config), advice=ADVICE)
        origin = (file.suffix, file.stat().st_size, content_hash(file))
    elif config.source == "movielens-small":
        origin = movielens.movielens_small_version()
    elif config.source == "movielens":
        origin = (config.path, tfds.__version__)
    text = json.dumps([FORMAT_VERSION, options, origin], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
