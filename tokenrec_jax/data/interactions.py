"""The one in-memory form of a data set: histories as compressed sparse rows, id maps and item texts.

Files and formats live in `sources.py` and the readers it chooses from, the prepared ArrayRecord form in
`tfds_builders.py`. Read `Interactions` first, then `validated`, which tells what every other layer may rely
on.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Int

from tokenrec_jax.array_files import save_arrays
from tokenrec_jax.config import EvaluationConfig
from tokenrec_jax.data.files import new_folder
from tokenrec_jax.types import PADDING, DataError

#: Training, validation and test need one interaction each.
MIN_HISTORY = 3

_ARRAYS = "interactions.safetensors"
_TEXTS = "interactions.json"


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Histories of all users, oldest first; immutable, and `validated` before a source hands it out.

    Attributes:
      name: name of the data set, for results.
      indptr: user u owns items[indptr[u] : indptr[u + 1]].
      items: dense item ids, 0 <= id < num_items.
      user_ids: original id of each user.
      item_ids: original id of each item.
      timestamps: seconds since 1970 of each interaction, or None where the source has no times.
      item_titles: readable name of each item ("" where unknown), or None.
      item_attributes: categorical values of each item, for example brand and categories, or None.
      item_texts: what else is written of each item, for example a description ("" where nothing is), or None.
      dropped: rows that the source left out, by reason, for the report.
    """

    name: str
    indptr: Int[np.ndarray, " users_plus_one"]
    items: Int[np.ndarray, " interactions"]
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    timestamps: Int[np.ndarray, " interactions"] | None = None
    item_titles: tuple[str, ...] | None = None
    item_attributes: tuple[tuple[str, ...], ...] | None = None
    item_texts: tuple[str, ...] | None = None
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def texts(self) -> list[str]:
        """Returns all that is known of each item in words: title, categorical values, text; "" where nothing is."""
        nothing = ("",) * self.num_items
        values = self.item_attributes or ((),) * self.num_items
        return in_words(self.item_titles or nothing, values, self.item_texts or nothing)

    def padded(
        self, start: Int[np.ndarray, " batch"], end: Int[np.ndarray, " batch"], *, width: int
    ) -> Int[np.ndarray, "batch width"]:
        """Returns items[start : end] of each row, int32, right-padded with `PADDING`, which also cuts it to `width`."""
        position = start[:, None] + np.arange(width)
        inside = position < end[:, None]
        return np.where(inside, self.items[np.where(inside, position, 0)], PADDING).astype(np.int32)

    def history(self, user: int) -> Int[np.ndarray, " history"]:
        """Returns a view of a user's items, oldest first."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def same_histories(self, other: "Interactions") -> bool:
        """Returns whether another data set has the same users and items, in the same order, with the same histories."""
        return (
            self.user_ids == other.user_ids
            and self.item_ids == other.item_ids
            and np.array_equal(self.indptr, other.indptr)
            and np.array_equal(self.items, other.items)
        )

    def without_last(self, count: int) -> "Interactions":
        """Returns the data set without the newest `count` interactions of each user.

        `without_last(2)` is what may be trained on: the last item is the test target, the one before it the
        validation target. The result may hold users with fewer interactions than `validated` asks for.
        """
        lengths = np.maximum(np.diff(self.indptr) - count, 0)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        position = np.arange(len(self.items)) - np.repeat(self.indptr[:-1], np.diff(self.indptr))
        keep = position < np.repeat(lengths, np.diff(self.indptr))
        times = None if self.timestamps is None else self.timestamps[keep]
        return dataclasses.replace(self, indptr=indptr, items=self.items[keep], timestamps=times)

    def ended_earlier(self, count: int) -> "Interactions":
        """Returns the data set as if each user's newest `count` interactions had not happened yet, for backtests.

        As `without_last`, but a data set of its own: users with fewer than `MIN_HISTORY` interactions left go, and
        `dropped` says how many rows went. Items stay, touched or not.

        Args:
          count: interactions of each user, 0 or more.

        Raises:
          DataError: nobody has as many left.
        """
        if not count:
            return self
        earlier = self.without_last(count)
        lengths = np.diff(earlier.indptr)
        stay = lengths >= MIN_HISTORY
        if not stay.any():
            raise DataError(
                f"{self.name}: no user has {MIN_HISTORY} interactions but the newest {count}; leave out fewer"
            )
        rows = np.repeat(stay, lengths)
        times = earlier.timestamps
        gone = {
            f"newest {count} of a user": len(self.items) - len(rows),
            "of users with too few left": int((~rows).sum()),
        }
        return dataclasses.replace(
            earlier,
            user_ids=tuple(user for user, stays in zip(self.user_ids, stay, strict=True) if stays),
            indptr=np.concatenate([[0], np.cumsum(lengths[stay])]),
            items=earlier.items[rows],
            timestamps=None if times is None else times[rows],
            dropped=self.dropped | {reason: number for reason, number in gone.items() if number},
        )

    def validated(self) -> "Interactions":
        """Returns itself if it is sound: what every source calls before it hands a data set out.

        Sound is: at least one user and one item; original ids not empty and not repeated; row pointers that
        cover the items; item ids in range; `MIN_HISTORY` interactions or more a user and none of them twice;
        timestamps that never fall within a user; titles and attributes for every item or none.

        Raises:
          DataError: one of these does not hold; names the first user or item it does not hold for.
        """
        _check_ids("user", self.user_ids)
        _check_ids("item", self.item_ids)
        _check_lengths(self)
        lengths = np.diff(self.indptr)
        self._refuse_users(lengths < MIN_HISTORY, f"fewer than {MIN_HISTORY} interactions; {MIN_HISTORY} are needed")
        user = np.repeat(np.arange(self.num_users), lengths)
        outside = (self.items < 0) | (self.items >= self.num_items)
        if outside.any():
            place = int(np.argmax(outside))
            raise DataError(
                f"user {self.user_ids[user[place]]!r} has item {self.items[place]}; "
                f"allowed are the ids 0 to {self.num_items - 1}"
            )
        pairs = np.sort(user * self.num_items + self.items)
        repeated = np.zeros(self.num_users, bool)
        repeated[pairs[1:][pairs[1:] == pairs[:-1]] // self.num_items] = True
        self._refuse_users(repeated, "the same item twice; an item may be in a history once")
        if self.timestamps is not None:
            falls = (np.diff(self.timestamps) < 0) & (user[1:] == user[:-1])
            unsorted = np.zeros(self.num_users, bool)
            unsorted[user[1:][falls]] = True
            self._refuse_users(unsorted, "timestamps that fall; histories are oldest first")
        return self

    def _refuse_users(self, wrong: Bool[np.ndarray, " users"], what: str) -> None:
        """Raises a DataError about the first user that is marked as wrong."""
        if wrong.any():
            raise DataError(f"user {self.user_ids[int(np.argmax(wrong))]!r} has {what}")

    def save(self, folder: pathlib.Path) -> None:
        """Writes the data set into a folder of its own, which appears whole or not at all.

        A data set that was saved there before is replaced.

        Raises:
          DataError: the folder holds something else.
        """
        if folder.exists() and not (folder / _TEXTS).is_file() and any(folder.iterdir()):
            raise DataError(f"{folder}: holds something else than saved interactions; choose an empty or new folder")
        arrays = {"indptr": self.indptr, "items": self.items}
        if self.timestamps is not None:
            arrays["timestamps"] = self.timestamps
        texts = {
            "name": self.name,
            "user_ids": self.user_ids,
            "item_ids": self.item_ids,
            "item_titles": self.item_titles,
            "item_attributes": self.item_attributes,
            "item_texts": self.item_texts,
            "dropped": self.dropped,
        }
        with new_folder(folder, replace=True) as temporary:
            contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_arrays(temporary / _ARRAYS, contiguous)
            (temporary / _TEXTS).write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: pathlib.Path) -> "Interactions":
        """Reads what `save` wrote. It may be one that `without_last` shortened: `validated` is up to you.

        Raises:
          DataError: files are missing or do not fit each other.
        """
        try:
            arrays = safetensors.numpy.load_file(folder / _ARRAYS)
            texts = json.loads((folder / _TEXTS).read_text(encoding="utf-8"))
            titles, attributes, words = texts["item_titles"], texts["item_attributes"], texts.get("item_texts")
            loaded = cls(
                name=texts["name"],
                indptr=arrays["indptr"],
                items=arrays["items"],
                user_ids=tuple(texts["user_ids"]),
                item_ids=tuple(texts["item_ids"]),
                timestamps=arrays.get("timestamps"),
                item_titles=None if titles is None else tuple(titles),
                item_attributes=None if attributes is None else tuple(tuple(values) for values in attributes),
                item_texts=None if words is None else tuple(words),
                dropped=texts["dropped"],
            )
        except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{folder}: not a folder of saved interactions ({reason}); save it again") from None
        _check_lengths(loaded)
        return loaded


def training_part(interactions: Interactions, evaluation: EvaluationConfig) -> Interactions:
    """Returns what may be trained on: all but the newest items of each user that a run holds out, see the config."""
    return interactions.without_last(evaluation.untrained)


def split_attributes(text: str) -> tuple[str, ...]:
    """Returns the values of `A|B|...` without empty and repeated ones, in their order."""
    return tuple(dict.fromkeys(part.strip() for part in text.split("|") if part.strip()))


def _check_ids(kind: str, ids: tuple[str, ...]) -> None:
    """Raises a DataError if there are no ids, an empty one or one that occurs twice."""
    if not ids:
        raise DataError(f"no {kind}s; at least one is needed")
    if len(set(ids)) < len(ids):
        repeated, count = collections.Counter(ids).most_common(1)[0]
        raise DataError(f"{kind} id {repeated!r} stands for {count} {kind}s; ids must differ")
    if "" in ids:
        raise DataError(f"{kind} {ids.index('')} has an empty id; ids are not empty")


def _check_lengths(interactions: Interactions) -> None:
    """Raises a DataError if arrays and tuples do not have the lengths that each other ask for."""
    indptr, items, times = interactions.indptr, interactions.items, interactions.timestamps
    if len(indptr) != interactions.num_users + 1:
        raise DataError(f"indptr has length {len(indptr)}; {interactions.num_users} users need one more than users")
    if indptr[0] != 0 or indptr[-1] != len(items) or (np.diff(indptr) < 0).any():
        raise DataError(f"indptr must rise from 0 to {len(items)}, the number of interactions, and never fall")
    if times is not None and len(times) != len(items):
        raise DataError(f"{len(times)} timestamps for {len(items)} interactions; give one each or None")
    described = {
        "titles": interactions.item_titles,
        "attributes": interactions.item_attributes,
        "texts": interactions.item_texts,
    }
    for what, texts in described.items():
        if texts is not None and len(texts) != interactions.num_items:
            raise DataError(f"{what} of {len(texts)} items for {interactions.num_items}; give one each or None")


def in_words(titles: Sequence[str], attributes: Sequence[Sequence[str]], texts: Sequence[str]) -> list[str]:
    """Returns what a title, categorical values and a text say of each item, "" where there is none of them."""
    columns = titles, map(", ".join, attributes), texts
    return [". ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]
