"""Metrics of a run: one JSON line an event in metrics.jsonl, and TensorBoard scalars. Read `MetricWriter`."""

import json
import pathlib
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from tokenrec_jax.data.files import write_whole
from tokenrec_jax.processes import is_main


class MetricWriter:
    """Appends scalars; a resumed run first drops the lines that its checkpoint does not know of.

    With several processes only process 0 has files; the others do nothing.

    A line is {"step": total step, "stage": name, "kind": "train" | "valid" | "diagnostics", name: value, ...}.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int):
        """Opens DIR/metrics.jsonl and DIR/tensorboard; lines after `resume_step` go."""
        self.folder = workdir
        self._writes = is_main()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= resume_step]
        write_whole(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float], *, stage: str, kind: str) -> None:
        """Appends one event; `step` counts over all stages."""
        if not self._writes:
            return
        line = {"step": step, "stage": stage, "kind": kind, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{stage}/{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._writes:
            self._file.close()
            self._board.close()


def _complete_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a file that a kill may have cut in its last one."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
