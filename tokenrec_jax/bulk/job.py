"""The batch job: recommendations for every user in one Parquet file. Read `recommend_all`.

Users are ranked in parts. Each part becomes a file of its own in OUTPUT.parts/, which is there whole or not at all; a
job that is killed goes on behind the parts that it finds. At the end they are copied into one file, part by part, so
that memory never holds more than one. Several processes rank each part together and take turns in writing.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import time
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from jaxtyping import Float, Int
from tqdm import tqdm

from tokenrec_jax.bulk.ranking import BulkRanker
from tokenrec_jax.data.files import write_whole
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.processes import is_main, main_first, wait_for_all
from tokenrec_jax.types import PADDING, ConfigError

#: Users a part. With k = 50 a part is ten megabytes in memory.
PART_USERS = 4096

#: One row a recommendation, users in the order of the data set, ranks from 1.
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("title", pa.string()),
        ("score", pa.float32()),
    ]
)

_JOB = "job.json"


@dataclasses.dataclass(frozen=True)
class BulkResult:
    """What a job did.

    Attributes:
      users: all users of the file.
      k: the most items that a user has there.
      ranked_users: those of them that this call ranked; an earlier one that was stopped ranked the others.
      seconds: that ranking them took, compilation included.
    """

    users: int
    k: int
    ranked_users: int
    seconds: float


def recommend_all(
    ranker: BulkRanker,
    output: str,
    *,
    k: int,
    model: str,
    exclude_seen: bool = True,
    prompt: str = "seen",
    overwrite: bool = False,
    part_users: int = PART_USERS,
) -> BulkResult:
    """Writes the k best items of every user, best first, with original ids and titles ("" where unknown).

    With several processes all of them call it with the same arguments and share a file system.

    Args:
      ranker: of the model.
      output: path that ends in ".parquet"; its folder is made.
      k: items a user; fewer where the catalogue has no more.
      model: tells models apart, so that no file holds recommendations of two.
      exclude_seen: leave out what a user has interacted with.
      prompt: "seen" or "unseen", the template.
      overwrite: replace a file that is there, and drop the parts of another job.
      part_users: users a part.

    Raises:
      ConfigError: the output is there already, has another ending or cannot be written, or parts of another job are
        beside it.
    """
    path = pathlib.Path(output)
    if path.suffix != ".parquet":
        raise ConfigError(f"--output={output}: allowed is a name that ends in .parquet")
    interactions = ranker.interactions
    k = min(k, interactions.num_items)
    job = {
        "model": model,
        "users": interactions.num_users,
        "items": interactions.num_items,
        "interactions": len(interactions.items),
        "k": k,
        "exclude_seen": exclude_seen,
        "prompt": prompt,
        "part_users": part_users,
    }
    parts = _Parts(path, job, count=-(-interactions.num_users // part_users))
    table = _TableMaker(interactions)
    started, ranked = time.monotonic(), 0
    try:
        missing = parts.open(overwrite=overwrite)
        with _Progress(interactions.num_users) as progress:
            done = set(range(parts.count)) - set(missing)
            progress.skip(sum(min(part_users, interactions.num_users - part * part_users) for part in done))
            for part in missing:
                users = np.arange(part * part_users, min((part + 1) * part_users, interactions.num_users))
                ids, scores = np.empty((len(users), k), np.int32), np.empty((len(users), k), np.float32)
                for found in ranker.rank(users, k=k, exclude_seen=exclude_seen, prompt=prompt):
                    ids[found.users - users[0]], scores[found.users - users[0]] = found.ids, found.scores
                    progress.advance(len(found.users))
                ranked += len(users)
                if part % jax.process_count() == jax.process_index():
                    parts.write(part, table(users, ids, scores))
        seconds = time.monotonic() - started
        parts.merge()
    except OSError as error:
        raise ConfigError(
            f"--output={output}: {error.strerror or error}; name a file in a folder that can be written and has room"
        ) from None
    return BulkResult(users=interactions.num_users, k=k, ranked_users=ranked, seconds=seconds)


class _Parts:
    """The files of a job: OUTPUT.parts/ while it goes on, OUTPUT when it is done."""

    def __init__(self, output: pathlib.Path, job: dict[str, Any], *, count: int):
        self._output, self._job, self.count = output, job, count
        self._folder = output.with_name(output.name + ".parts")

    def open(self, *, overwrite: bool) -> list[int]:
        """Returns the numbers of the parts that are missing; the same in all processes.

        Raises:
          ConfigError: the output is there, or parts of another job.
          OSError: nothing can be written here.
        """
        with main_first("open bulk job"):
            if self._output.exists() and (not overwrite or not self._output.is_file()):
                raise ConfigError(f"--output={self._output}: is there already; give --overwrite or another name")
            if is_main():
                self._begin(overwrite=overwrite)
            self._check()
            missing = [part for part in range(self.count) if not self._path(part).is_file()]
        # Nobody writes before everybody has looked.
        wait_for_all("bulk job opened")
        if len(missing) < self.count:
            logging.info("%d of %d parts are there already, in %s", self.count - len(missing), self.count, self._folder)
        return missing

    def _begin(self, *, overwrite: bool) -> None:
        if overwrite and self._folder.is_dir() and self._found() != self._job:
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._folder / _JOB).is_file():
            write_whole(self._folder / _JOB, json.dumps(self._job, indent=2) + "\n")

    def _check(self) -> None:
        found = self._found()
        if found == self._job:
            return
        changed = [f"{name}: {found.get(name)} there, {own} here" for name, own in self._job.items()
                   if found.get(name) != own]  # fmt: skip
        raise ConfigError(
            f"{self._folder}: holds parts of another job ({'; '.join(changed)}); give --overwrite to drop them, "
            "or another --output"
        )

    def _found(self) -> dict[str, Any]:
        try:
            found = json.loads((self._folder / _JOB).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def _path(self, part: int) -> pathlib.Path:
        return self._folder / f"{part:06}.parquet"

    def write(self, part: int, table: pa.Table) -> None:
        """Writes a part; it appears whole or not at all."""
        draft = self._path(part).with_suffix(".tmp")
        pq.write_table(table, draft, compression="zstd")
        draft.replace(self._path(part))

    def merge(self) -> None:
        """Makes the output of all parts and removes them, when every process has written its own."""
        wait_for_all("bulk parts written")
        if is_main():
            draft = self._folder / "whole.tmp"
            with pq.ParquetWriter(draft, SCHEMA, compression="zstd") as writer:
                for part in range(self.count):
                    writer.write_table(self._read(self._path(part)))
            draft.replace(self._output)
            shutil.rmtree(self._folder)
        wait_for_all("bulk output written")

    def _read(self, path: pathlib.Path) -> pa.Table:
        try:
            return pq.read_table(path, schema=SCHEMA, memory_map=False)
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{path}: damaged ({error}); delete it and run the same command again") from None


class _TableMaker:
    """Turns rows of users and items into original ids and titles, without a Python loop."""

    def __init__(self, interactions: Interactions):
        self._users = pa.array(interactions.user_ids, pa.string())
        self._items = pa.array(interactions.item_ids, pa.string())
        self._titles = pa.array(interactions.item_titles or [""] * interactions.num_items, pa.string())

    def __call__(
        self, users: Int[np.ndarray, " users"], ids: Int[np.ndarray, "users k"], scores: Float[np.ndarray, "users k"]
    ) -> pa.Table:
        row, column = np.nonzero(ids != PADDING)
        items = pa.array(ids[row, column])
        return pa.Table.from_arrays(
            [
                self._users.take(pa.array(users[row])),
                pa.array((column + 1).astype(np.int32)),
                self._items.take(items),
                self._titles.take(items),
                pa.array(scores[row, column].astype(np.float32)),
            ],
            schema=SCHEMA,
        )


class _Progress:
    """A bar with time left on a terminal, a line each tenth elsewhere."""

    def __init__(self, total: int):
        self._total, self._done, self._said = total, 0, 0
        self._bar = None
        if sys.stderr.isatty() and is_main():
            self._bar = tqdm(total=total, desc="recommend", unit="user", dynamic_ncols=True)

    def skip(self, users: int) -> None:
        """Counts users that an earlier call has ranked."""
        self._done = users
        self._said = 10 * users // self._total
        if self._bar:
            self._bar.initial = users
            self._bar.reset(self._total)
            self._bar.update(users)

    def advance(self, users: int) -> None:
        self._done += users
        if self._bar:
            self._bar.update(users)
        elif 10 * self._done // self._total > self._said:
            self._said = 10 * self._done // self._total
            logging.info("ranked %d of %d users", self._done, self._total)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.close()
