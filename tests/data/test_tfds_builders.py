import contextlib
import multiprocessing
import pathlib
import sys
import time

import numpy as np
import pytest

from tests.data.helpers import assert_same, sample, unfinished, write_layout
from tokenrec_jax.config import DataConfig
from tokenrec_jax.data import sources
from tokenrec_jax.data.sources import cache_folder, load_interactions
from tokenrec_jax.data.tfds_builders import open_prepared, read_prepared, write_prepared
from tokenrec_jax.types import DataError


@pytest.mark.parametrize("data", [sample(), sample(timestamps=None, item_titles=None, item_attributes=None)])
def test_what_was_prepared_reads_back_the_same(tmp_path, data, capfd):
    write_prepared(data, folder=tmp_path)
    assert_same(read_prepared(tmp_path), data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenrec_items", "tokenrec_users"]
    assert list(tmp_path.rglob("*.array_record-*"))
    assert "tensorflow" not in sys.modules
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_records_are_in_order_and_in_random_access(tmp_path):
    write_prepared(sample(), folder=tmp_path)
    prepared = open_prepared(tmp_path)
    assert (len(prepared.users), len(prepared.items)) == (3, 4)
    user = prepared.users[2]
    assert user["user_id"].decode() == "ç"
    np.testing.assert_array_equal(user["items"], [1, 3, 0])
    np.testing.assert_array_equal(user["timestamps"], [-4, 0, 7])
    item = prepared.items[3]
    assert (item["item_id"], item["title"]) == (b"z", b"z")
    assert [value.decode() for value in item["attributes"]] == ["C|D", "é"]


def test_many_records_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenrec_jax.data.tfds_builders._RECORDS_AT_ONCE", 64)
    config = DataConfig(cache_dir=str(tmp_path), synthetic_users=1000)
    first = load_interactions(config)
    assert_same(load_interactions(config), first)


def test_the_second_call_reads_the_prepared_files(tmp_path, monkeypatch):
    config = DataConfig(cache_dir=str(tmp_path))
    first = load_interactions(config)
    monkeypatch.setattr(sources, "read_source", lambda config: pytest.fail("the source was read twice"))
    assert_same(load_interactions(config), first)
    # Fields that do not change the data find the same folder.
    config.max_history = 7
    config.history_buckets = (3, 7)
    load_interactions(config)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_option_or_another_content_is_prepared_anew(tmp_path):
    cache = tmp_path / "cache"
    folder = write_layout(tmp_path / "Tiny")
    config = DataConfig(source="tokenrec", path=str(folder), cache_dir=str(cache))
    assert load_interactions(config).history(0).tolist() == [0, 1, 2, 3]
    text = (folder / "test.txt").read_text()
    (folder / "test.txt").write_text(text.replace("0 0 1 2 3", "0 3 2 1 0"))
    assert load_interactions(config).history(0).tolist() == [3, 2, 1, 0]
    load_interactions(DataConfig(cache_dir=str(cache)))
    load_interactions(DataConfig(cache_dir=str(cache), synthetic_seed=1))
    assert len(list(cache.iterdir())) == 4


def test_the_cache_is_where_config_or_environment_say(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENREC_CACHE", str(tmp_path / "env"))
    assert cache_folder(DataConfig(cache_dir=str(tmp_path / "own"))) == tmp_path / "own"
    assert cache_folder(DataConfig()) == tmp_path / "env"
    monkeypatch.delenv("TOKENREC_CACHE")
    assert cache_folder(DataConfig()) == pathlib.Path("~/.cache/tokenrec_jax").expanduser()


def test_a_failure_while_preparing_leaves_nothing(tmp_path, monkeypatch):
    def fail_late(interactions, *, folder):
        write_prepared(interactions, folder=folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "write_prepared", fail_late)
    with pytest.raises(DataError, match=r"No space left on device\); set data.cache_dir or \$TOKENREC_CACHE"):
        load_interactions(DataConfig(cache_dir=str(tmp_path / "cache")))
    assert unfinished(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot keep prepared data here"):
        load_interactions(DataConfig(cache_dir=str(tmp_path / "file" / "cache")))


@pytest.mark.parametrize("pattern", ["*users*.array_record-*", "dataset_info.json", "metadata.json"])
def test_a_damaged_cache_says_what_to_do(tmp_path, pattern):
    load_interactions(DataConfig(cache_dir=str(tmp_path)))
    file = sorted(tmp_path.rglob(pattern))[-1]
    file.write_bytes(file.read_bytes()[:7])
    with pytest.raises(DataError, match=r"damaged .*; remove this folder") as caught:
        load_interactions(DataConfig(cache_dir=str(tmp_path)))
    assert "\n" not in str(caught.value)


def _prepare(cache, barrier, results=None):
    barrier.wait(timeout=120)
    data = load_interactions(DataConfig(cache_dir=cache, synthetic_users=50))
    if results is not None:
        results.put(data.items.tolist())
    return data.items.tolist()


def test_two_processes_may_prepare_the_same_set_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    other = context.Process(target=_prepare, args=(str(tmp_path), barrier, results))
    other.start()
    ours = _prepare(str(tmp_path), barrier)
    assert results.get(timeout=120) == ours
    other.join(timeout=120)
    assert ours == load_interactions(DataConfig(cache_dir=str(tmp_path), synthetic_users=50)).items.tolist()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_loser_of_the_race_keeps_what_the_winner_wrote(tmp_path, monkeypatch):
    def beaten(interactions, *, folder):
        write_prepared(interactions, folder=folder)
        with contextlib.suppress(FileExistsError):
            winner = folder.parent / folder.name[1:].split(".")[0]
            winner.mkdir()
            write_prepared(interactions, folder=winner)

    monkeypatch.setattr(sources, "write_prepared", beaten)
    config = DataConfig(cache_dir=str(tmp_path))
    assert_same(load_interactions(config), load_interactions(config))
    assert len(list(tmp_path.iterdir())) == 1


def test_reading_back_takes_well_below_a_millisecond_a_record(tmp_path, shared_data):
    config = DataConfig(source="tokenrec", path=str(shared_data / "LastFM"), cache_dir=str(tmp_path))
    first = load_interactions(config)
    start = time.perf_counter()
    second = load_interactions(config)
    # About 0.1 seconds for 4,736 records on two quiet cores; Beauty, 34,464 records, takes 1 second.
    assert time.perf_counter() - start < 2
    assert_same(first, second)
