"""What readers and writers of data files share: text with line numbers, hashes, locks, what appears whole.

Nothing here knows what a file means. Read `new_folder` first: it is why a failure leaves nothing
half-written.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

from tokenrec_jax.types import ConfigError, DataError, StorageError

_BLOCK = 1 << 24


@contextlib.contextmanager
def new_folder(target: pathlib.Path, *, replace: bool = False) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside `target` that becomes `target` when the block ends without an error.

    Whatever happens, `target` is either as it was or complete, and the temporary folder is gone.

    Args:
      target: the folder to make; its parents are made too.
      replace: what to do when the target holds something at the end: replace it, or keep it and drop the new
        one, as is right where two processes make the same thing at once.

    Raises:
      OSError: the parent cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    outdated = temporary.with_suffix(".old")
    temporary.mkdir()
    try:
        yield temporary
        if replace and target.exists():
            target.rename(outdated)
        try:
            temporary.rename(target)
        except OSError:
            if outdated.exists() and not target.exists():
                outdated.rename(target)
                raise
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(outdated, ignore_errors=True)


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a small file, which is then there as a whole or as it was, after a loss of power too; text as UTF-8."""
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def storage_error(path: pathlib.Path, reason: str) -> StorageError:
    """Returns the error of a run whose files cannot be written."""
    return StorageError(f"{path}: {reason}; mend that and run the same command again, which goes on from what is there")


def hold(file: int) -> bool:
    """Locks an open file for this process until it is closed; returns False if another process has it.

    Raises:
      OSError: the file system, or the platform, has no locks.
    """
    try:
        # Not at the top: Windows has no such module.
        import fcntl
    except ModuleNotFoundError:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold_or_refuse(file: int, *, where: str, busy: str) -> None:
    """Locks an open file, see `hold`.

    Args:
      file: its descriptor.
      where: what to name in errors.
      busy: what to say if another process has it.

    Raises:
      ConfigError: another process has it, or there are no locks.
    """
    try:
        free = hold(file)
    except OSError as error:
        raise ConfigError(f"{where}: no lock ({error.strerror}); give a directory where files can be locked") from None
    if not free:
        raise ConfigError(f"{where}: {busy}")


def empty_target(folder: str) -> pathlib.Path:
    """Returns the path of a folder to make; raises ConfigError, naming `--output`, if something is there already."""
    path = pathlib.Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--output={folder}: is there already and not an empty folder; give a new one")
    return path


def require_file(path: pathlib.Path, *, advice: str) -> pathlib.Path:
    """Returns `path` if it is a file.

    Raises:
      DataError: it is not; ends with `advice`.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}; {advice}")
    return path


def require_utf8(path: pathlib.Path) -> None:
    """Checks that a file is UTF-8 throughout, block by block.

    Raises:
      DataError: it is not; names the first line that is not.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK)
            # Bytes of a character that the previous block began: they hold no line feed.
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += block[: max(error.start - pending, 0)].count(b"\n")
                raise DataError(f"{path}:{line}: not UTF-8; save the file as UTF-8 text") from None
            if not block:
                return
            line += block.count(b"\n")


def read_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a UTF-8 file without their line ends.

    Raises:
      DataError: not UTF-8.
    """
    require_utf8(path)
    # Only "\n" and "\r\n" end a line; str.splitlines would also cut at characters that may stand in a title.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_json(path: pathlib.Path, *, advice: str) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Raises:
      DataError: it cannot be read or holds none; ends with `advice`.
    """
    try:
        return _object(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {advice}") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); {advice}") from None


def read_json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the JSON objects of a file, one a line; none if there is no file. A last line that was cut is left out.

    Raises:
      DataError: another line holds none.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            if line.endswith(b"\n"):
                found.append(_object(line.decode()))
        except ValueError as error:
            raise DataError(f"{path}:{number}: damaged ({error}); remove the line") from None
    return found


def _object(text: str) -> dict[str, Any]:
    """Returns a JSON object; raises a ValueError if the text is none."""
    if not isinstance(value := json.loads(text), dict):
        raise ValueError(f"a {type(value).__name__}, no object")
    return value


def content_hash(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
