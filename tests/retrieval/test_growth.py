"""Indexes that grow in place, and indexes in files."""

import json
import pathlib
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tokenrec_jax.retrieval import index as index_module
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.retrieval.storage import Metric
from tokenrec_jax.types import ConfigError, DataError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(400, 8)).astype(np.float32)
QUERIES = jnp.asarray(RNG.normal(size=(5, 8)).astype(np.float32))
STORAGES = pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])


def equal(index, vectors, *, metric: Metric = "cosine"):
    expected = ItemIndex.build(vectors, metric=metric, storage=index.storage)
    for ours, theirs in zip(index.search(QUERIES, k=9).ids, expected.search(QUERIES, k=9).ids, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(index.num_items) == len(vectors)


@STORAGES
def test_growing_within_the_capacity_compiles_nothing_again(storage):
    index = ItemIndex.build(VECTORS[:100], metric="cosine", storage=storage, capacity=400)
    assert index.capacity == 512
    index.search(QUERIES, k=9)
    index = index.grow(VECTORS[100:107])
    # The odd number is padded to the power of two of those that follow.
    index.search(QUERIES, k=9)
    before = num_compiled()
    for first in range(107, 395, 8):
        index = index.grow(VECTORS[first : first + 8])
        index.search(QUERIES, k=9)
    index = index.grow(VECTORS[395:])
    assert num_compiled() == before
    equal(index, VECTORS)


def num_compiled():
    search: Any = ItemIndex.search
    update: Any = index_module._update
    return search._cache_size(), update._cache_size()


@STORAGES
def test_growing_beyond_the_capacity_doubles_it(storage):
    index = ItemIndex.build(VECTORS[:120], metric="cosine", storage=storage).grow(VECTORS[120:130])
    assert index.capacity == 256
    equal(index, VECTORS[:130])


def test_updates_take_the_memory_of_the_index():
    index = ItemIndex.build(VECTORS, metric="dot")
    address = index.vectors.unsafe_buffer_pointer()
    changed = VECTORS.copy()
    changed[[7, 3, 399]] = 5 * RNG.normal(size=(3, 8))
    index = index.update([7, 3, 399], changed[[7, 3, 399]])
    assert index.vectors.unsafe_buffer_pointer() == address
    equal(index, changed, metric="dot")
    assert index.update([], np.zeros((0, 8), np.float32)) is index


@pytest.mark.parametrize("ids", [[-1], [512], [3, 3]])
def test_ids_that_are_no_rows(ids):
    index = ItemIndex.build(VECTORS, metric="dot")
    with pytest.raises(ConfigError, match="allowed is each of 0 to 511 once"):
        index.update(ids, np.zeros((len(ids), 8), np.float32))


@STORAGES
def test_files_are_used_where_they_lie(tmp_path, storage):
    path = tmp_path / "folder" / "index.safetensors"
    index = ItemIndex.build(VECTORS, metric="cosine", storage=storage, capacity=600)
    index.save(path)
    again = ItemIndex.load(path)
    assert (again.storage, again.metric, again.capacity) == (storage, "cosine", 640)
    equal(again, VECTORS)
    # The file is a public format, and its arrays lie where JAX needs no copy of them.
    assert set(load_file(path)) == ({"vectors", "scale", "exact"} if storage == "int8" else {"vectors"})
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert (8 + length + header["vectors"]["data_offsets"][0]) % 64 == 0
    maps = [line.split() for line in pathlib.Path("/proc/self/maps").read_text().splitlines()]
    mapped = [[int(x, 16) for x in line[0].split("-")] for line in maps if line[-1] == str(path)]
    address = again.vectors.unsafe_buffer_pointer()
    assert any(first <= address < last for first, last in mapped)
    # To change it is to copy it: the file stays.
    equal(again.grow(VECTORS[:3]), np.concatenate([VECTORS, VECTORS[:3]]))
    assert path.read_bytes() == content


def test_files_that_are_no_index(tmp_path):
    with pytest.raises(DataError, match=r"missing: No such file.*; name a file that ItemIndex.save wrote"):
        ItemIndex.load(tmp_path / "missing")
    index = ItemIndex.build(VECTORS, metric="dot")
    index.save(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"items, items and more items",
        "cut": good[:-100],
        "other": good.replace(b"tokenrec_jax.item_index", b"tokenrec_jax.user_index"),
        "metric": good.replace(b'"dot"', b'"l17"'),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: is no item index; allowed is"):
            ItemIndex.load(tmp_path / name)


def test_a_search_reads_no_implicit_copies_after_growth():
    index = ItemIndex.build(VECTORS, metric="dot", capacity=600)
    with jax.transfer_guard("disallow"):
        index = index.update(np.array([3]), VECTORS[:1])
        ids = index.search(jax.device_put(np.ones((1, 8), np.float32)), k=1).ids
    assert ids.shape == (1, 1)
