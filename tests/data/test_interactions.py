import numpy as np
import pytest

from tests.data.helpers import assert_same, sample
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import DataError


def test_a_sound_set_is_returned_as_it_is():
    data = sample()
    assert data.validated() is data
    assert (data.num_users, data.num_items) == (3, 4)
    np.testing.assert_array_equal(data.history(1), [3, 2, 1, 0])


def test_as_it_was_earlier_users_with_too_little_go_and_items_stay():
    data = sample()
    earlier = data.ended_earlier(1).validated()
    assert earlier.user_ids == ("b",) and earlier.item_ids == data.item_ids
    assert earlier.history(0).tolist() == [3, 2, 1] and earlier.num_users == 1
    assert earlier.timestamps is not None and earlier.timestamps.tolist() == [0, 1, 2]
    assert earlier.dropped == {"rated below 4": 7, "newest 1 of a user": 3, "of users with too few left": 4}
    assert data.ended_earlier(0) is data
    with pytest.raises(DataError, match="sample: no user has 3 interactions but the newest 2; leave out fewer"):
        data.ended_earlier(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_ids": (), "indptr": np.array([0])}, "no users"),
        ({"user_ids": ("a", "b", "a")}, "user id 'a' stands for 2 users"),
        ({"item_ids": ("w", "x", "", "z")}, "item 2 has an empty id"),
        ({"indptr": np.array([0, 3, 10])}, "indptr has length 3"),
        ({"indptr": np.array([0, 7, 3, 10])}, "never fall"),
        ({"indptr": np.array([0, 3, 7, 9])}, "rise from 0 to 10"),
        ({"indptr": np.array([1, 3, 7, 10])}, "rise from 0 to 10"),
        ({"indptr": np.array([0, 2, 7, 10])}, "user 'a' has fewer than 3 interactions"),
        (
            {"items": np.array([0, 1, 2, 3, 4, 1, 0, 1, 3, 0])},
            "user 'b' has item 4; allowed are the ids 0 to 3",
        ),
        ({"items": np.array([0, 1, 2, 3, 2, 1, 0, 1, 3, -1])}, "user 'ç' has item -1"),
        ({"items": np.array([0, 1, 2, 3, 2, 1, 3, 1, 3, 0])}, "user 'b' has the same item twice"),
        ({"timestamps": np.array([5, 5, 9, 0, 1, 2, 1, 0, 0, 0])}, "user 'b' has timestamps that fall"),
        ({"timestamps": np.arange(9)}, "9 timestamps for 10 interactions"),
        ({"item_titles": ("w",)}, "titles of 1 items for 4"),
        ({"item_attributes": ((),)}, "attributes of 1 items for 4"),
    ],
)
def test_validated_refuses(changes, message):
    data = sample()
    for name, value in changes.items():
        object.__setattr__(data, name, value)  # Past the run-time check of shapes, which only tests have.
    with pytest.raises(DataError, match=message) as caught:
        data.validated()
    assert "\n" not in str(caught.value)


def test_without_last_cuts_every_user_and_may_leave_short_ones():
    data = sample().without_last(2)
    np.testing.assert_array_equal(data.indptr, [0, 1, 3, 4])
    np.testing.assert_array_equal(data.items, [0, 3, 2, 1])
    np.testing.assert_array_equal(data.timestamps, [5, 0, 1, -4])
    assert len(sample().without_last(9).items) == 0


@pytest.mark.parametrize(
    "data",
    [sample(), sample(timestamps=None, item_titles=None, item_attributes=None), sample().without_last(2)],
)
def test_save_and_load_give_the_same_set(tmp_path, data):
    data.save(tmp_path / "sub" / "set")
    assert_same(Interactions.load(tmp_path / "sub" / "set"), data)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["set"]


def test_save_replaces_an_older_set_but_nothing_else(tmp_path):
    sample().save(tmp_path / "set")
    sample(name="newer").save(tmp_path / "set")
    assert Interactions.load(tmp_path / "set").name == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(DataError, match="holds something else"):
        sample().save(tmp_path / "photos")


def test_a_failed_save_leaves_the_older_set(tmp_path, monkeypatch):
    sample().save(tmp_path / "set")
    monkeypatch.setattr("safetensors.numpy.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        sample(name="newer").save(tmp_path / "set")
    assert_same(Interactions.load(tmp_path / "set"), sample())
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("name", ["interactions.json", "interactions.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_load_refuses_damaged_folders(tmp_path, name, damage):
    sample().save(tmp_path / "set")
    file = tmp_path / "set" / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut off":
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a folder of saved interactions") as caught:
        Interactions.load(tmp_path / "set")
    assert "\n" not in str(caught.value)
