"""The append-only log of what clients told: whatever was acknowledged is in it after any crash. Read `InteractionLog`.

A line is one JSON object, written and fsynced as a whole before the next one is begun:

  {"seq":0,"format":1,"run":"...","crc":"1f2e3d4c"}             the first line: which run the log belongs to
  {"seq":1,"events":[["add","user","item",1700000000,"title"],["remove","item"]],"crc":"..."}
  {"seq":2,"events":[["item","new","title",["brand=A"],"text"]],"crc":"..."}

`crc` is the CRC-32 of the bytes before it. So only the last line can be damaged by a crash: it was never acknowledged,
and is cut off. Damage anywhere else is an error, never skipped. Nothing here knows what a recommender does with events.
"""

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from tokenrec_jax.data.files import hold_or_refuse
from tokenrec_jax.types import ConfigError, DataError

FORMAT = 1
#: Length of `,"crc":"01234567"}`, which ends every line.
_SUFFIX = 18


@dataclasses.dataclass(frozen=True)
class Add:
    """An interaction; user and item may be new.

    Attributes:
      user, item: original ids.
      timestamp: seconds since 1970, None: as new as the newest of the user before it.
      title: name of a new item, None: none is known.
    """

    user: str
    item: str
    timestamp: int | None = None
    title: str | None = None


@dataclasses.dataclass(frozen=True)
class AddItem:
    """An item that nobody has touched; nothing happens where it is known.

    Attributes:
      item: original id.
      title: its name, None: none is known.
      attributes: categorical values, in the words of the run's data.
      text: what else is written of it, None: nothing.
    """

    item: str
    title: str | None = None
    attributes: tuple[str, ...] = ()
    text: str | None = None


@dataclasses.dataclass(frozen=True)
class Remove:
    """An item that shall not be recommended any more."""

    item: str


@dataclasses.dataclass(frozen=True)
class Restore:
    """A removed item that may be recommended again."""

    item: str


Event = Add | AddItem | Remove | Restore


class LogError(Exception):
    """The log cannot be written; nothing that this call was given may be acknowledged."""


class InteractionLog:
    """One open log file, locked against other processes. Not thread-safe: one thread appends."""

    def __init__(self, path: pathlib.Path, file: int, *, sequence: int, size: int):
        """Holds an open and checked file; use `open`."""
        self.path = path
        self.sequence = sequence
        self._file = file
        self._size = size
        self._broken = ""

    @classmethod
    def open(cls, path: pathlib.Path, *, run: str) -> "InteractionLog":
        """Opens a log, or makes an empty one; a last line that a crash cut short is moved to `path`.torn.

        Args:
          path: the file; its folders are made too.
          run: what tells the run that the events belong to from others.

        Raises:
          ConfigError: it cannot be written, another server has it, or it belongs to another run.
          DataError: a line other than the last is damaged.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; give a --state directory that can be written") from None
        try:
            busy = "another server writes to it; stop that one or give another --state"
            hold_or_refuse(file, where=str(path), busy=busy)
            sequence, size = _check(path, run=run)
            _cut(file, path, size=size)
            log = cls(path, file, sequence=sequence, size=size)
            if not size:
                log._write({"seq": 0, "format": FORMAT, "run": run})
                _sync_folder(path.parent)
        except LogError as error:
            os.close(file)
            raise ConfigError(f"{error}; give a --state directory that can be written") from None
        except BaseException:
            os.close(file)
            raise
        return log

    @property
    def broken(self) -> str:
        """Why nothing can be appended until the next start, "" if it can."""
        return self._broken

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def append(self, events: Sequence[Event]) -> int:
        """Writes events as one line and returns its number; they are on the disk when this returns.

        Raises:
          LogError: they are not.
        """
        self._write({"seq": self.sequence + 1, "events": [_to_json(event) for event in events]})
        self.sequence += 1
        return self.sequence

    def batches(self, *, size: int) -> Iterator[list[Event]]:
        """Yields all events in order, in lists of at least `size` where there are that many."""
        batch: list[Event] = []
        for number, line in _lines(self.path):
            for event in _parse(line, path=self.path, number=number).get("events", []):
                batch.append(_to_event(event, path=self.path, number=number))
            if len(batch) >= size:
                yield batch
                batch = []
        if batch:
            yield batch

    def close(self) -> None:
        """Closes the file and so releases the lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, record: dict[str, Any]) -> None:
        if self._file < 0:
            raise LogError(f"{self.path}: is closed")
        if self._broken:
            raise LogError(self._broken)
        data = _encode(record)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._undo(error)
            raise LogError(f"{self.path}: {error.strerror}") from None
        try:
            os.fsync(self._file)
        except OSError as error:
            # What the disk holds now is unknown, and a second fsync may report success without having written.
            self._broken = f"{self.path}: {error.strerror} on fsync; restart the server"
            raise LogError(self._broken) from None
        self._size += len(data)

    def _undo(self, cause: OSError) -> None:
        """Takes back a line that was written in part, so that the next one can follow."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._broken = f"{self.path}: {cause.strerror}, and the half-written line stays; restart the server"


def _check(path: pathlib.Path, *, run: str) -> tuple[int, int]:
    """Returns the number of the last good line (0 if none) and the bytes up to its end."""
    last, size, damage = -1, 0, None
    for number, line in _lines(path):
        if damage:
            raise damage
        try:
            record = _parse(line, path=path, number=number)
        except DataError as error:
            damage = error
            continue
        if record["seq"] != last + 1:
            raise DataError(f"{path}:{number}: number {record['seq']} follows {last}; a line is missing or twice there")
        if number == 1 and record.get("format") != FORMAT:
            raise ConfigError(f"{path}:1: format {record.get('format')!r}; this version reads {FORMAT}")
        if number == 1 and record.get("run") != run:
            raise ConfigError(f"{path}:1: belongs to another run than this one; give another --state")
        last, size = record["seq"], size + len(line)
    return max(last, 0), size


def _cut(file: int, path: pathlib.Path, *, size: int) -> None:
    """Moves what follows the last good line to a file beside the log."""
    torn = os.pread(file, os.fstat(file).st_size - size, size)
    if not torn:
        return
    rest = path.with_name(path.name + ".torn")
    try:
        with rest.open("ab") as kept:
            kept.write(torn)
        os.ftruncate(file, size)
        os.fsync(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a --state directory that can be written") from None
    logging.warning("%s: the last line was cut short by a crash; its %d bytes are now in %s", path, len(torn), rest)


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from enumerate(file, start=1)


def _encode(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode("ascii")[:-1]
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def _parse(line: bytes, *, path: pathlib.Path, number: int) -> dict[str, Any]:
    """Returns the object of a line.

    Raises:
      DataError: it is not as it was written.
    """
    body, suffix = line[: -_SUFFIX - 1], line[-_SUFFIX - 1 :]
    if suffix != b',"crc":"%08x"}\n' % zlib.crc32(body):
        raise DataError(
            f"{path}:{number}: damaged, its checksum does not fit; put back a copy of the file, or cut it before this "
            "line and lose what follows"
        )
    return json.loads(body + b"}")


def _to_json(event: Event) -> list[Any]:
    match event:
        case Remove(item):
            return ["remove", item]
        case Restore(item):
            return ["restore", item]
        case AddItem(item, title, attributes, text):
            return ["item", item, title, list(attributes), text]
    return ["add", event.user, event.item, event.timestamp, event.title]


def _to_event(fields: list[Any], *, path: pathlib.Path, number: int) -> Event:
    match fields:
        case ["add", str(user), str(item), timestamp, title]:
            return Add(user, item, timestamp, title)
        case ["remove", str(item)]:
            return Remove(item)
        case ["restore", str(item)]:
            return Restore(item)
        case ["item", str(item), title, list(attributes), text]:
            return AddItem(item, title, tuple(attributes), text)
    raise DataError(f"{path}:{number}: event {fields[:1]}; this version knows add, item, remove and restore")


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a new name in a folder survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
