"""Recommends with jax and numpy alone, on a CPU, GPU or TPU; lies beside the files that it reads.

from loader import Portable
Portable().recommend([["item", "another item"], ...], k=10)  # [[(item, title, score), ...], ...], best first
"""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export


class Portable:
    """A program with its weights; compiled once for each power of two of histories and of their longest length."""

    def __init__(self, folder=pathlib.Path(__file__).parent):
        """Reads the folder; weights go to the default device."""
        folder = pathlib.Path(folder)
        sys.path.append(str(folder / "flatbuffers.zip"))  # last: an installed one goes first
        self.about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.program = jax.jit(export.deserialize(bytearray((folder / "program.bin").read_bytes())).call)
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            self.weights = [jax.device_put(arrays[name]) for name in self.about["weights"]]
        self.item_rows = {item: row for row, item in enumerate(self.about["items"])}
        self.user_rows = {user: row for row, user in enumerate(self.about["users"])}

    def recommend(self, histories, *, k=10, users=(), exclude_seen=True):
        """Returns items after histories, oldest first, none empty; `users` only where about.json names some.

        Raises ValueError where an id is unknown, a history is empty, or a number is not what it can be.
        """
        if not isinstance(k, (int, np.integer)) or k < 1 or k > self.about["k"] < len(self.item_rows):
            raise ValueError(f"k is {k!r}; the program returns 1 to {self.about['k']} items")
        if self.user_rows and len(users) != len(histories):
            raise ValueError(
                f"{len(users)} users for {len(histories)} histories; this model reads one of about.json each"
            )
        rows = [_rows(history, self.item_rows, f"history {number}: item") for number, history in enumerate(histories)]
        # An item counts where it came first, as in training.
        rows = [list(dict.fromkeys(items)) for items in rows]
        if empty := [number for number, items in enumerate(rows) if not items]:
            raise ValueError(f"history {empty[0]} is empty; give one item or more")
        if not rows:
            return []
        batch = 1 << (len(rows) - 1).bit_length()
        user, history = np.zeros(batch, np.int32), np.full((batch, self.about["max_history"]), -1, np.int32)
        seen = np.full((batch, 1 << (max(map(len, rows)) - 1).bit_length()), -1, np.int32)
        if self.user_rows:
            user[: len(rows)] = _rows(users, self.user_rows, "user")
        for row, items in enumerate(rows):
            history[row, : len(items)] = items[-history.shape[1] :]
            seen[row, : len(items)] = items if exclude_seen else -1
        found = self.program(self.weights, user, history, seen)
        ids, scores = (np.asarray(each)[: len(rows), :k].tolist() for each in found)
        items, titles = self.about["items"], self.about["titles"]
        pairs = [zip(*row, strict=True) for row in zip(ids, scores, strict=True)]
        return [[(items[i], titles[i], score) for i, score in row if i >= 0] for row in pairs]


def _rows(names, rows, what):
    """Returns the rows of ids."""
    if isinstance(names, str):
        raise ValueError(f"{what}s are {names!r}; give a list of ids")
    for name in names:
        if name not in rows:
            raise ValueError(f"{what} {name!r} is not in about.json")
    return [rows[name] for name in names]
