"""Several processes that train as one: which of them writes, and where they wait for each other.

All processes run the same program on the same data and share a file system; what they compute together lies on the mesh
(`sharding.py`). How they find each other is in `experiments/distributed.py`. With one process nothing here does
anything. Read `main_first`.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_main() -> bool:
    """Returns whether this is process 0, the one that writes files and talks."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come to this call; `name` must be the same in all of them."""
    if jax.process_count() > 1:
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(name)


def said_by_main(answer: bool) -> bool:
    """Returns what process 0 gives, in all of them."""
    if jax.process_count() == 1:
        return answer
    with jax.transfer_guard("allow"):
        return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """Runs the block in process 0 and then in the others, which so find the files that it has written.

    If it raises in process 0 the others still run it, so that a failure that a user caused is the same in all.
    """
    if not is_main():
        wait_for_all(name)
    try:
        yield
    finally:
        if is_main():
            wait_for_all(name)
