"""One file with everybody's recommendations: the same as one by one, resumable, and never half there."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.untrained import small_config, untrained_recommender
from tokenrec_jax.bulk import job
from tokenrec_jax.bulk.job import SCHEMA, recommend_all
from tokenrec_jax.bulk.ranking import BulkRanker
from tokenrec_jax.types import ConfigError

PART_USERS = 25


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    return untrained_recommender(small_config(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def ranker(recommender):
    return BulkRanker.of(recommender, batch_size=16)


def write(ranker, path, **options):
    given = {"k": 6, "model": "a", "part_users": PART_USERS}
    return recommend_all(ranker, str(path), **(given | options))


class Stopped(Exception):
    pass


def stop_before_part(monkeypatch, number):
    """Lets the job die when it is about to write a part."""
    real = job._Parts.write

    def write(self, part, table):
        if part == number:
            raise Stopped
        real(self, part, table)

    monkeypatch.setattr(job._Parts, "write", write)


def test_the_file_has_what_the_recommender_says(recommender, ranker, tmp_path):
    path = tmp_path / "new" / "recs.parquet"
    done = write(ranker, path)
    assert (done.users, done.ranked_users) == (60, 60)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    expected = [recommender.recommend([user], k=6)[0] for user in recommender.user_ids]
    rows = [
        (user, rank, each.item, each.title)
        for user, items in zip(recommender.user_ids, expected, strict=True)
        for rank, each in enumerate(items, start=1)
    ]
    columns = table.to_pydict()
    assert list(zip(*(columns[name] for name in ("user", "rank", "item", "title")), strict=True)) == rows
    np.testing.assert_allclose(columns["score"], [each.score for items in expected for each in items], atol=1e-5)
    assert [each.name for each in path.parent.iterdir()] == ["recs.parquet"]


def test_seen_items_and_the_end_of_the_catalogue(recommender, ranker, tmp_path):
    done = write(ranker, tmp_path / "without.parquet", k=10**12)
    assert done.k == len(recommender.item_ids)
    write(ranker, tmp_path / "with.parquet", k=100, exclude_seen=False)
    lengths = np.diff(recommender.interactions.indptr)
    # Every item once: with the seen ones, and without them.
    assert len(pq.read_table(tmp_path / "with.parquet")) == 60 * 40
    assert len(pq.read_table(tmp_path / "without.parquet")) == int(np.sum(40 - lengths))


def test_a_job_that_died_goes_on_behind_its_parts(ranker, tmp_path, monkeypatch):
    whole, path = tmp_path / "whole.parquet", tmp_path / "recs.parquet"
    write(ranker, whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_before_part(patch, 1)
        write(ranker, path)
    assert not path.exists()
    # What a process leaves that is killed while it writes.
    (tmp_path / "recs.parquet.parts" / "000001.tmp").write_bytes(b"PAR1")
    assert write(ranker, path).ranked_users == 60 - PART_USERS
    assert pq.read_table(path).equals(pq.read_table(whole))
    assert {each.name for each in tmp_path.iterdir()} == {"whole.parquet", "recs.parquet"}


def test_parts_of_another_job_are_refused_or_dropped(ranker, tmp_path, monkeypatch):
    path = tmp_path / "recs.parquet"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_before_part(patch, 1)
        write(ranker, path)
    with pytest.raises(ConfigError, match=r"recs.parquet.parts: .*\(model: a there, b here; k: 6 there, 5 here\)"):
        write(ranker, path, model="b", k=5)
    assert json.loads((tmp_path / "recs.parquet.parts" / "job.json").read_text())["model"] == "a"
    assert write(ranker, path, model="b", k=5, overwrite=True).ranked_users == 60


def test_an_output_that_is_there_is_replaced_only_when_asked_and_only_at_the_end(ranker, tmp_path, monkeypatch):
    path = tmp_path / "recs.parquet"
    path.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is there already; give --overwrite"):
        write(ranker, path)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_before_part(patch, 2)
        write(ranker, path, overwrite=True)
    assert path.read_bytes() == b"mine"
    # Its own parts are no other job's: they stay.
    assert write(ranker, path, overwrite=True).ranked_users == 60 - 2 * PART_USERS
    assert len(pq.read_table(path)) == 60 * 6


@pytest.mark.parametrize(
    ("name", "message"),
    [("recs.csv", "ends in .parquet"), ("file/recs.parquet", "--output=.*file/recs.parquet: Not a directory")],
)
def test_an_output_that_cannot_be_made_is_one_line(ranker, tmp_path, name, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=message) as raised:
        write(ranker, tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_damaged_part_is_named(ranker, tmp_path, monkeypatch):
    path = tmp_path / "recs.parquet"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_before_part(patch, 1)
        write(ranker, path)
    (tmp_path / "recs.parquet.parts" / "000000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ConfigError, match=r"000000.parquet: damaged \(.*\); delete it"):
        write(ranker, path)


def test_memory_holds_one_part(ranker, tmp_path):
    write(ranker, tmp_path / "recs.parquet", part_users=7)
    with pq.ParquetFile(tmp_path / "recs.parquet") as file:
        assert file.num_row_groups == 9
        assert max(file.metadata.row_group(group).num_rows for group in range(9)) == 7 * 6
        assert pa.Table.from_batches(file.iter_batches(), SCHEMA).num_rows == 60 * 6
