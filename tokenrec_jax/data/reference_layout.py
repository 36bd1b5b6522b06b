"""Reader of the folder layout that the reference code of TokenRec uses.

    test.txt             `user item item ...`, dense ids from 0, the whole history, oldest first, one user a line
    user_list.txt        header `org_id remap_id`, then original id and dense id of every user
    item_list.txt        the same for items
    item_titles.tsv      optional: dense id, original id, title, genres `A|B`
    item_attributes.tsv  optional: original id, values `brand|category|...`; goes before the genres; may have
                         lines of other items, which are passed over

These files are prepared by someone: nothing is filtered, and whatever does not fit is an error with its line.
Read `read_reference_layout` first. The layout has no timestamps.
"""

import pathlib
import re

import numpy as np
from absl import logging
from jaxtyping import Bool, Int

from tokenrec_jax.data.files import read_lines, require_file
from tokenrec_jax.data.interactions import MIN_HISTORY, Interactions, split_attributes
from tokenrec_jax.types import DataError

REQUIRED_FILES = ("test.txt", "user_list.txt", "item_list.txt")
OPTIONAL_FILES = ("item_titles.tsv", "item_attributes.tsv")
ADVICE = (
    "a folder with test.txt, user_list.txt and item_list.txt is due; "
    "the data folder of the GitHub repository Quhaoh233/TokenRec holds such folders"
)

_LIST_HEADER = ["org_id", "remap_id"]
_LONGEST_ID = 9  # digits; fits int32


def layout_files(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the files of the folder that `read_reference_layout` reads.

    Raises:
      DataError: the folder or one of the required files is missing.
    """
    required = [require_file(folder / name, advice=ADVICE) for name in REQUIRED_FILES]
    return (*required, *(folder / name for name in OPTIONAL_FILES if (folder / name).is_file()))


def read_reference_layout(folder: pathlib.Path, *, name: str) -> Interactions:
    """Reads such a folder.

    Args:
      folder: where the files are.
      name: name of the data set in results.

    Raises:
      DataError: a file is missing or holds something that the layout does not allow.
    """
    layout_files(folder)
    user_ids = _read_id_list(folder / "user_list.txt", "user")
    item_ids = _read_id_list(folder / "item_list.txt", "item")
    indptr, items = _read_histories(folder / "test.txt", num_users=len(user_ids), num_items=len(item_ids))
    titles = attributes = None
    if (folder / "item_titles.tsv").is_file():
        titles, attributes = _read_titles(folder / "item_titles.tsv", item_ids)
    if (folder / "item_attributes.tsv").is_file():
        attributes = _read_attributes(folder / "item_attributes.tsv", item_ids)
    return Interactions(
        name=name,
        indptr=indptr,
        items=items,
        user_ids=user_ids,
        item_ids=item_ids,
        item_titles=titles,
        item_attributes=attributes,
    ).validated()


def _read_histories(
    path: pathlib.Path, *, num_users: int, num_items: int
) -> tuple[Int[np.ndarray, " users_plus_one"], Int[np.ndarray, " interactions"]]:
    """Returns row pointers and items of test.txt, with users in the order of their dense ids.

    All work is on arrays with one element a byte or a number: a million interactions take a fraction of a
    second.
    """
    text = path.read_bytes()
    if not text.strip():
        raise DataError(f"{path}: is empty; lines `user item item ...` are due")
    numbers, line = _parse_numbers(path, text)
    is_user = np.append(True, line[1:] != line[:-1])
    starts = np.flatnonzero(is_user)
    users, lengths = numbers[starts], np.diff(starts, append=len(numbers)) - 1

    def refuse(wrong: Bool[np.ndarray, " numbers"], what: str) -> None:
        if wrong.any():
            place = int(np.argmax(wrong))
            raise DataError(f"{path}:{line[place]}: " + what.format(number=numbers[place]))

    refuse(
        is_user & (numbers >= num_users),
        f"user {{number}} is not in user_list.txt, which has {num_users} users",
    )
    refuse(
        ~is_user & (numbers >= num_items),
        f"item {{number}} is not in item_list.txt, which has {num_items} items",
    )
    short = np.zeros(len(numbers), bool)
    short[starts] = lengths < MIN_HISTORY
    refuse(short, f"user {{number}} has too few items; at least {MIN_HISTORY} are needed")
    second_line = np.zeros(len(numbers), bool)
    second_line[starts] = _is_repeat(users)
    refuse(second_line, "user {number} has a second line; one line a user is allowed")
    pairs = np.repeat(users, lengths) * num_items + numbers[~is_user]
    twice = np.zeros(len(numbers), bool)
    twice[~is_user] = _is_repeat(pairs)
    refuse(twice, "item {number} is in this history twice; an item may be in a history once")
    if not text.endswith(b"\n"):
        # A download that broke off inside a number would silently change the test target of the last user.
        raise DataError(f"{path}:{line[-1]}: the last line has no line end: was the file cut off? End it with one")
    if len(users) < num_users:
        absent = int(np.setdiff1d(np.arange(num_users), users)[0])
        raise DataError(f"{path}: user {absent} of user_list.txt has no line; every user needs one")

    by_user = np.argsort(np.repeat(users, lengths), kind="stable")
    indptr = np.append(0, np.cumsum(lengths[np.argsort(users)]))
    return indptr, numbers[~is_user][by_user].astype(np.int32)


def _parse_numbers(path: pathlib.Path, text: bytes) -> tuple[Int[np.ndarray, " numbers"], Int[np.ndarray, " numbers"]]:
    """Returns the numbers of a text of digits and blanks, and the line of each, from 1."""
    characters = np.frombuffer(text, np.uint8)
    digit = (characters >= ord("0")) & (characters <= ord("9"))
    strange = ~(digit | np.isin(characters, np.frombuffer(b" \t\r\n", np.uint8)))
    start = digit.copy()
    start[1:] &= ~digit[:-1]
    if strange.any():
        line = text.count(b"\n", 0, int(np.argmax(strange))) + 1
        words_there = re.split(rb"[ \t\r]+", text.split(b"\n")[line - 1])
        try:
            word = next(word for word in words_there if word and not word.isdigit()).decode()
        except UnicodeDecodeError:
            raise DataError(f"{path}:{line}: not UTF-8; ids are integers from 0") from None
        raise DataError(f"{path}:{line}: {word[:40]!r} is no id; ids are integers from 0")
    words = text.split()
    numbers = np.array(words, dtype=bytes)
    line = (np.cumsum(characters == ord("\n"))[start] + 1).astype(np.int64)
    if numbers.dtype.itemsize > _LONGEST_ID:
        place = int(np.argmax(np.char.str_len(numbers)))
        raise DataError(f"{path}:{line[place]}: id {words[place][:40].decode()}... is too large; ids are dense from 0")
    return numbers.astype(np.int64), line


def _is_repeat(values: Int[np.ndarray, " values"]) -> Bool[np.ndarray, " values"]:
    """Returns which elements equal an earlier one."""
    repeat = np.ones(len(values), bool)
    repeat[np.unique(values, return_index=True)[1]] = False
    return repeat


def _read_id_list(path: pathlib.Path, kind: str) -> tuple[str, ...]:
    """Returns the original ids of user_list.txt or item_list.txt, in the order of the dense ids."""
    lines = read_lines(path)
    if not lines or lines[0].split() != _LIST_HEADER:
        raise DataError(f"{path}:1: the header is missing; it must be `{' '.join(_LIST_HEADER)}`")
    count = sum(1 for line in lines[1:] if line.strip())
    original: list[str] = [""] * count
    seen: set[str] = set()
    for number, line in enumerate(lines[1:], start=2):
        fields = line.rsplit(maxsplit=1)
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: {line.strip()!r} is not a pair; original id and dense id are due")
        label, dense = fields[0].strip(), _dense_id(fields[1], count)
        if dense is None:
            raise DataError(f"{path}:{number}: dense id {fields[1]!r}; allowed are 0 to {count - 1}, once each")
        if original[dense] or label in seen:
            raise DataError(f"{path}:{number}: {kind} {line.strip()!r} repeats an id; every id may stand here once")
        original[dense] = label
        seen.add(label)
    if not original:
        raise DataError(f"{path}: lists no {kind}s; lines `original_id dense_id` are due below the header")
    return tuple(original)


def _read_titles(path: pathlib.Path, item_ids: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Returns title and genres of every item; "" and () where the file has no line."""
    titles = [""] * len(item_ids)
    genres: list[tuple[str, ...]] = [()] * len(item_ids)
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != 4:
            raise DataError(f"{path}:{number}: {len(fields)} fields; dense id, original id, title, genres are due")
        dense = _dense_id(fields[0], len(item_ids))
        if dense is None or item_ids[dense] != fields[1]:
            raise DataError(f"{path}:{number}: item {fields[0]!r}, {fields[1]!r} is not in item_list.txt")
        titles[dense], genres[dense] = fields[2].strip(), split_attributes(fields[3])
    return tuple(titles), tuple(genres)


def _read_attributes(path: pathlib.Path, item_ids: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Returns the attributes of every item; () where the file has no line.

    Such files come from a shop's whole catalogue: items without interactions are passed over.
    """
    dense = {original: number for number, original in enumerate(item_ids)}
    attributes: list[tuple[str, ...]] = [()] * len(item_ids)
    found = number = 0
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: {len(fields)} fields; original id and attributes `a|b` are due")
        if fields[0] in dense:
            attributes[dense[fields[0]]] = split_attributes(fields[1])
            found += 1
    if number and not found:
        raise DataError(f"{path}: none of its items is in item_list.txt; original ids are due, as there")
    if found < number:
        logging.info("%s: %d of its %d items are in item_list.txt", path, found, number)
    return tuple(attributes)


def _dense_id(text: str, count: int) -> int | None:
    """Returns the id that a text holds, or None if it is not an integer from 0 to count - 1."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_ID) or int(text) >= count:
        return None
    return int(text)
