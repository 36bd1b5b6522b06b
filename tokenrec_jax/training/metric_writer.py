"""Metrics of a run: one JSON line an event in metrics.jsonl, and TensorBoard scalars. Read `MetricWriter`."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tokenrec_jax.data.files import read_json_lines, storage_error, write_whole
from tokenrec_jax.processes import is_main

#: Name of the file of events in a run's directory.
METRICS_FILE = "metrics.jsonl"


class MetricWriter:
    """Appends scalars; a resumed run first drops the lines that its checkpoint does not know of.

    With several processes only process 0 has files; the others do nothing.

    A line is {"step": total step, "stage": name, "kind": "train" | "valid" | "diagnostics", name: value, ...}.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int):
        """Opens DIR/metrics.jsonl and DIR/tensorboard; lines after `resume_step` go.

        Raises:
          DataError: a line is damaged.
          StorageError: the directory cannot be written, as in all methods.
        """
        self.folder = workdir
        self._writes = is_main()
        path = workdir / METRICS_FILE
        # All processes look, so that all of them refuse.
        kept = [event for event in read_json_lines(path) if event.get("step", 0) <= resume_step]
        if not self._writes:
            return
        with _without_torch():
            # Only a training should take the time.
            from tensorboardX import SummaryWriter

        with self._refusals():
            write_whole(path, "".join(map(_line, kept)))
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float], *, stage: str, kind: str) -> None:
        """Appends one event; `step` counts over all stages."""
        if not self._writes:
            return
        with self._refusals():
            self._file.write(_line({"step": step, "stage": stage, "kind": kind, **values}))
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._writes:
            with self._refusals(), contextlib.closing(self._board):
                self._file.close()

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Names the directory in what a file system says that takes nothing more."""
        try:
            yield
        except OSError as error:
            raise storage_error(self.folder, error.strerror or str(error)) from error


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Keeps tensorboardX from importing PyTorch, where it is installed: seconds, for types that it never sees here."""
    if "torch" in sys.modules:
        yield
        return
    # An import of it fails then, as if it were not installed.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event) + "\n"
