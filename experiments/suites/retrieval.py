"""Exact search side by side with `faiss.IndexFlatIP`, which is the usual answer to the same question.

Read `compare`. Both get the same random vectors and all cores that this process may use, and take turns, so that what
else the machine does falls on both. The vectors need no normalising: metric "dot".
"""

import concurrent.futures
import functools
import gc
import importlib
import multiprocessing
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from tokenrec_jax.config import Config
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.types import ConfigError

_ITEMS = flags.DEFINE_list(
    "retrieval_items", ["12000", "100000", "1000000", "5000000"], "Suite retrieval: catalogue sizes."
)
_QUERIES = flags.DEFINE_list("retrieval_queries", ["1", "64", "1024"], "Suite retrieval: queries at a time.")

DIMENSION, K = 64, 20
#: Seconds that both together may take for one comparison, and the bounds of how often they take turns.
BUDGET, MIN_TURNS, MAX_TURNS = 20.0, 3, 50
#: Seconds that a turn of both lasts, in as many calls as fit. Not one call each: the threads of either library wait for
#: more work for a while before they sleep, which would take a core from the first calls of the other.
TURN = 0.5


def measure(config: Config) -> dict[str, Any]:
    """Returns the comparison for all sizes, and the memory that the largest search takes; `config` is not read."""
    del config
    try:
        # By name, as type checkers need not have it.
        faiss = importlib.import_module("faiss")
    except ImportError:
        raise ConfigError("faiss is not installed, and it is what we compare with; pip install faiss-cpu") from None
    # Systems without affinity have all cores for everybody.
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    faiss.omp_set_num_threads(threads)
    sizes, batches = _sizes(_ITEMS.name, _ITEMS.value), _sizes(_QUERIES.name, _QUERIES.value)
    comparisons = []
    for num_items in sizes:
        vectors = random_vectors(num_items, seed=0)
        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(vectors)
        index = ItemIndex.build(vectors, metric="dot")
        del vectors
        for num_queries in batches:
            queries = random_vectors(num_queries, seed=1)
            comparisons.append(
                {"num_items": num_items, "num_queries": num_queries}
                | compare(index, queries, other=functools.partial(_faiss_ids, flat))
            )
    if jax.default_backend() != "cpu":
        # An accelerator belongs to one process, and its memory is not the host's.
        return {"dimension": DIMENSION, "k": K, "faiss_threads": threads, "comparisons": comparisons}
    # In a process of its own: what a process has once used does not go away.
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        memory = pool.submit(peak_memory, max(sizes), max(batches)).result()
    return {"dimension": DIMENSION, "k": K, "faiss_threads": threads, "comparisons": comparisons} | memory


def compare(
    index: ItemIndex, queries: np.ndarray, *, other: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float | bool]:
    """Returns median seconds of our search and of another one that gives ids, in turns, and whether ids are equal."""
    on_device = jax.device_put(queries)
    ours = lambda: np.asarray(index.search(on_device, k=K).ids)  # noqa: E731
    # The first call compiles, the second shows what one takes.
    identical = bool(np.array_equal(ours(), other(queries)))
    both = _seconds(ours, 1) + _seconds(lambda: other(queries), 1)
    calls = max(1, int(TURN / both))
    turns = int(np.clip(BUDGET / (both * calls), MIN_TURNS, MAX_TURNS))
    our_seconds, other_seconds = [], []
    for _ in range(turns):
        our_seconds.append(_seconds(ours, calls))
        other_seconds.append(_seconds(lambda: other(queries), calls))
    our_median, other_median = statistics.median(our_seconds), statistics.median(other_seconds)
    return {
        "ours_seconds": our_median,
        "faiss_seconds": other_median,
        "ratio": other_median / our_median,
        "identical": identical,
    }


def _faiss_ids(flat: Any, queries: np.ndarray) -> np.ndarray:
    return flat.search(queries, K)[1]


def peak_memory(num_items: int, num_queries: int) -> dict[str, int]:
    """Returns bytes of the items and the most that this process, Python and JAX included, held during a search."""
    index = ItemIndex.build(random_vectors(num_items, seed=0), metric="dot")
    queries = jax.device_put(random_vectors(num_queries, seed=1))
    # Making the index takes several times its memory, which goes back to the system some time after.
    jax.block_until_ready(index.search(queries, k=K))
    gc.collect()
    _forget_peak()
    jax.block_until_ready(index.search(queries, k=K))
    return {
        "memory_num_items": num_items,
        "memory_num_queries": num_queries,
        "item_bytes": index.vectors.nbytes,
        "peak_bytes": _peak(),
    }


def random_vectors(rows: int, *, seed: int) -> np.ndarray:
    """Returns normally distributed float32 vectors."""
    return np.random.default_rng(seed).standard_normal((rows, DIMENSION), np.float32)


def _seconds(call: Callable[[], Any], calls: int) -> float:
    """Returns the median seconds of a call."""
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _sizes(flag: str, values: list[str]) -> list[int]:
    if not values or not all(value.isdecimal() and int(value) > 0 for value in values):
        raise ConfigError(f"--{flag}={','.join(values)}: allowed are whole numbers above 0 with commas between")
    return [int(value) for value in values]


def _forget_peak() -> None:
    """Begins the peak anew where the system can, on Linux; else it counts from the start of the process."""
    clear = pathlib.Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _peak() -> int:
    """Returns the most memory held so far, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
