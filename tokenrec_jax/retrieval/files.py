"""An index as one safetensors file that can be used where it lies, without reading it first. Read `read`.

The format is the public one, so other programs can read it; what is special is that the arrays begin at multiples of 64
bytes, as JAX wants memory to be that it uses without a copy.
"""

import dataclasses
import json
import math
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tokenrec_jax.array_files import save_arrays
from tokenrec_jax.retrieval.storage import Metric
from tokenrec_jax.sharding import fetch
from tokenrec_jax.types import DataError

_FORMAT = "tokenrec_jax.item_index"
_ALIGNMENT = 64
_TYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "I8": np.dtype(np.int8)}
_NEEDED, _OPTIONAL = {"vectors"}, {"scale", "exact"}


def write(path: str | pathlib.Path, arrays: Mapping[str, Any], *, num_items: int, metric: str) -> None:
    """Writes the arrays of an index; an older file is replaced at once, readers of it keep what they have.

    Args:
      path: of the file; its folder is made.
      arrays: by name, the rows of each a multiple of 64; all processes must call this, the first one writes.
      num_items: how many rows are items.
      metric: of the index.
    """
    path = pathlib.Path(path)
    host = {name: np.asarray(value) for name, value in fetch(dict(arrays)).items()}
    if jax.process_index():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    metadata = {"format": _FORMAT, "metric": metric, "num_items": str(num_items), "align": ""}
    save_arrays(part, host, metadata=metadata)
    # The length of the header moves all arrays, and a word of metadata gives it the length that is wanted.
    metadata["align"] = "-" * (-_header(part)[1] % _ALIGNMENT)
    save_arrays(part, host, metadata=metadata)
    part.replace(path)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      arrays: by name, mapped from the file.
      num_items: how many rows are items.
      metric: of the index.
    """

    arrays: dict[str, np.ndarray]
    num_items: int
    metric: Metric


def read(path: str | pathlib.Path) -> Contents:
    """Returns the contents of a file that `write` wrote.

    Raises:
      DataError: the file is missing or no such file.
    """
    path = pathlib.Path(path)
    try:
        header, begin = _header(path)
        metadata = header.pop("__metadata__")
        if metadata["format"] != _FORMAT or metadata["metric"] not in get_args(Metric):
            raise ValueError(metadata)
        arrays = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            dtype, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
            if last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(name)
            arrays[name] = np.memmap(path, dtype, mode="r", offset=begin + first, shape=shape)
        if not _NEEDED <= set(arrays) <= _NEEDED | _OPTIONAL:
            raise ValueError(sorted(arrays))
        return Contents(arrays=arrays, num_items=int(metadata["num_items"]), metric=metadata["metric"])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; name a file that ItemIndex.save wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise DataError(f"{path}: is no item index; allowed is a file that ItemIndex.save wrote") from None


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Returns the header of a safetensors file, and where its arrays begin."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError(length)
        return json.loads(file.read(length)), 8 + length
