"""Prepared data sets: two TensorFlow-Datasets builders that write ArrayRecord files, without TensorFlow.

    <folder>/tokenrec_users/1.1.0/   one record a user: original id, item ids oldest first, timestamps
    <folder>/tokenrec_items/1.1.0/   one record an item: original id, title, attributes, text

Record u of the users is user u; what belongs to the whole set (name, dropped rows) is in the metadata of
both. Which source is prepared where, and when, is in `sources.py`. Read `write_prepared` first, then
`read_prepared`; `open_prepared` gives random access to single records, as a grain pipeline wants.
"""

import contextlib
import dataclasses
import io
import itertools
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import DataError

#: Part of the fingerprint of a prepared set: raise it when records change, or what sources make of a file.
FORMAT_VERSION = "1.1.0"

_SPLIT = "rows"
_DOWNLOADS = "downloads"  # TFDS makes it, though nothing is downloaded.
_RECORDS_AT_ONCE = 8192


class _TableBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the rows of a table in their order, into one split."""

    VERSION = tfds.core.Version(FORMAT_VERSION)

    def __init__(self, *, interactions: Interactions | None = None, **kwargs):
        self._interactions = interactions
        super().__init__(file_format="array_record", **kwargs)

    def _features(self) -> dict[str, Any]:
        raise NotImplementedError

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Interactions prepared by tokenrec_jax.",
            features=tfds.features.FeaturesDict(self._features()),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        return {_SPLIT: self._generate_examples()}


class TokenrecUsers(_TableBuilder):
    """One record a user."""

    def _features(self):
        return {
            "user_id": tfds.features.Text(),
            "items": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            # Empty where the source has no times.
            "timestamps": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        }

    def _generate_examples(self):
        data = _given(self._interactions)
        items = data.items.astype(np.int64)
        times = np.zeros(0, np.int64) if data.timestamps is None else data.timestamps
        for user, user_id in enumerate(data.user_ids):
            row = slice(data.indptr[user], data.indptr[user + 1])
            yield user, {"user_id": user_id, "items": items[row], "timestamps": times[row]}


class TokenrecItems(_TableBuilder):
    """One record an item."""

    def _features(self):
        return {
            "item_id": tfds.features.Text(),
            "title": tfds.features.Text(),
            "attributes": tfds.features.Sequence(tfds.features.Text()),
            "text": tfds.features.Text(),
        }

    def _generate_examples(self):
        data = _given(self._interactions)
        titles = data.item_titles or itertools.repeat("", data.num_items)
        attributes = data.item_attributes or itertools.repeat((), data.num_items)
        texts = data.item_texts or itertools.repeat("", data.num_items)
        rows = zip(data.item_ids, titles, attributes, texts, strict=True)
        for item, (item_id, title, values, text) in enumerate(rows):
            yield item, {"item_id": item_id, "title": title, "attributes": list(values), "text": text}


def _given(interactions: Interactions | None) -> Interactions:
    """Returns the interactions of a builder that is to write."""
    if interactions is None:
        raise ValueError("a builder without interactions can only read")
    return interactions


def write_prepared(interactions: Interactions, *, folder: pathlib.Path) -> None:
    """Writes a data set as ArrayRecord files into an existing, empty folder."""
    with quiet_tfds():
        for builder_class in (TokenrecUsers, TokenrecItems):
            builder = builder_class(interactions=interactions, data_dir=str(folder))
            metadata: Any = builder.info.metadata
            metadata.update(
                name=interactions.name,
                dropped=interactions.dropped,
                has_timestamps=interactions.timestamps is not None,
                has_titles=interactions.item_titles is not None,
                has_attributes=interactions.item_attributes is not None,
                has_texts=interactions.item_texts is not None,
            )
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config, download_dir=str(folder / _DOWNLOADS))
    shutil.rmtree(folder / _DOWNLOADS, ignore_errors=True)


def read_prepared(folder: pathlib.Path) -> Interactions:
    """Reads back what `write_prepared` wrote: the same data set.

    Raises:
      DataError: the files are damaged.
    """
    try:
        with quiet_tfds():
            return _read_prepared(folder)
    except DataError:
        raise
    except Exception as error:  # TFDS, protobuf and array_record each have errors of their own.
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: damaged ({reason}); remove this folder, it will be prepared again") from None


def _read_prepared(folder: pathlib.Path) -> Interactions:
    users, items = TokenrecUsers(data_dir=str(folder)), TokenrecItems(data_dir=str(folder))
    metadata: dict[str, Any] = {**(users.info.metadata or {})}
    user_ids: list[str] = []
    lengths: list[int] = []
    histories: list[np.ndarray] = []
    times: list[np.ndarray] = []
    for example in read_examples(users, split=_SPLIT):
        user_ids.append(example["user_id"].bytes_list.value[0].decode())
        histories.append(np.array(example["items"].int64_list.value, np.int32))
        lengths.append(len(histories[-1]))
        if metadata["has_timestamps"]:
            times.append(np.array(example["timestamps"].int64_list.value, np.int64))
    item_ids: list[str] = []
    titles: list[str] = []
    attributes: list[tuple[str, ...]] = []
    texts: list[str] = []
    for example in read_examples(items, split=_SPLIT):
        item_ids.append(example["item_id"].bytes_list.value[0].decode())
        titles.append(example["title"].bytes_list.value[0].decode())
        attributes.append(tuple(value.decode() for value in example["attributes"].bytes_list.value))
        texts.append(example["text"].bytes_list.value[0].decode())
    return Interactions(
        name=metadata["name"],
        indptr=np.append(0, np.cumsum(lengths)),
        items=np.concatenate(histories),
        user_ids=tuple(user_ids),
        item_ids=tuple(item_ids),
        timestamps=np.concatenate(times) if metadata["has_timestamps"] else None,
        item_titles=tuple(titles) if metadata["has_titles"] else None,
        item_attributes=tuple(attributes) if metadata["has_attributes"] else None,
        item_texts=tuple(texts) if metadata["has_texts"] else None,
        dropped=metadata["dropped"],
    ).validated()


@dataclasses.dataclass(frozen=True)
class PreparedSources:
    """Random access to the records of a prepared set, decoded by TFDS; text is bytes.

    Attributes:
      users: record u has `user_id`, `items` and `timestamps` of user u.
      items: record i has `item_id`, `title`, `attributes` and `text` of item i.
    """

    users: Any
    items: Any


def open_prepared(folder: pathlib.Path) -> PreparedSources:
    """Opens what `write_prepared` wrote, reading nothing yet."""
    with quiet_tfds():
        users: Any = TokenrecUsers(data_dir=str(folder))
        items: Any = TokenrecItems(data_dir=str(folder))
        return PreparedSources(users=users.as_data_source(split=_SPLIT), items=items.as_data_source(split=_SPLIT))


def read_examples(builder: Any, *, split: str) -> Iterator[Any]:
    """Yields the features of every record of a prepared builder, as mappings from name to protobuf `Feature`.

    The decoder of TFDS spends about 100 microseconds a record on reshaping; this goes without it.

    Args:
      builder: a TFDS builder that is prepared as array_record.
      split: name of the split.
    """
    example_class: Any = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split=split, deserialize_method=raw)
    for start in range(0, len(source), _RECORDS_AT_ONCE):
        for record in source.__getitems__(range(start, min(start + _RECORDS_AT_ONCE, len(source)))):
            yield example_class.FromString(record).features.feature


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keeps TFDS from printing, logging and drawing progress bars while it works for us."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
