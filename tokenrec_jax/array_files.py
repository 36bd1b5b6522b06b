"""Arrays as safetensors files. Read `save_arrays`."""

import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy


def save_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], *, metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file; a part of one does not stay.

    Args:
      path: of the file; its folder is there.
      arrays: by name, each contiguous.
      metadata: words to keep with them.

    Raises:
      OSError: the file system refuses it, which the library tells as an error of its own.
    """
    try:
        safetensors.numpy.save_file(dict(arrays), path, metadata=metadata)
    except safetensors.SafetensorError as error:
        pathlib.Path(path).unlink(missing_ok=True)
        found = re.search(r"\(os error (\d+)\)", str(error))
        if not found:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None
