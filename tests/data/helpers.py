"""Small data sets as files, and the comparison of two data sets, for the tests of this folder."""

import dataclasses
import pathlib

import numpy as np

from tokenrec_jax.data.interactions import Interactions

#: Four users and six items in the reference layout; users stand out of order.
HISTORIES = {0: [0, 1, 2, 3], 2: [4, 5, 0], 1: [5, 4, 3, 2], 3: [1, 3, 5]}


def write_layout(folder: pathlib.Path, **replaced: str) -> pathlib.Path:
    """Writes such a folder; a keyword (`test`, `user_list`, `item_list`) replaces the content of a file."""
    folder.mkdir(exist_ok=True)
    content = {
        "test": "".join(f"{user} {' '.join(map(str, items))}\n" for user, items in HISTORIES.items()),
        "user_list": "org_id remap_id\n" + "".join(f"u{user} {user}\n" for user in range(4)),
        "item_list": "org_id remap_id\n" + "".join(f"B{item:03d} {item}\n" for item in range(6)),
    }
    for name, text in {**content, **replaced}.items():
        (folder / f"{name}.txt").write_bytes(text.encode("latin-1"))
    return folder


def sample(**changes) -> Interactions:
    """Returns three users and four items with everything that is optional."""
    given = Interactions(
        name="sample",
        indptr=np.array([0, 3, 7, 10]),
        items=np.array([0, 1, 2, 3, 2, 1, 0, 1, 3, 0], np.int32),
        user_ids=("a", "b", "ç"),
        item_ids=("w", "x", "y", "z"),
        timestamps=np.array([5, 5, 9, 0, 1, 2, 3, -4, 0, 7]),
        item_titles=("W, the first", "", "Amélie (2001)", "z"),
        item_attributes=(("A", "B"), (), ("B",), ("C|D", "é")),
        item_texts=("", "Über", "", "a. b"),
        dropped={"rated below 4": 7},
    )
    return dataclasses.replace(given, **changes)


def assert_same(left: Interactions, right: Interactions) -> None:
    """Asserts that two data sets are equal in every field, types of arrays included."""
    for field in dataclasses.fields(Interactions):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        else:
            assert one == other, field.name


def unfinished(cache: pathlib.Path) -> list[str]:
    """Returns everything that lies in a cache folder, to show that a failure left nothing."""
    return [str(path) for path in cache.rglob("*")] if cache.exists() else []
