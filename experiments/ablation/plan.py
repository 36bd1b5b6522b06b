"""From the cells of a grid to jobs: one cell with one seed, its directory and its command. Read `plan`."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from experiments.ablation.configs import Flat, differences, flatten, make_config, override_flags, read_config
from experiments.ablation.grid import KINDS, OF, Cell, Grid
from tokenrec_jax.data.files import read_json
from tokenrec_jax.training.workdir import BUILT_ON, Workdir
from tokenrec_jax.types import ConfigError

#: The file whose presence means that a job of a kind has finished; result.json for all others.
_RESULT = {"holdout": "holdout.json"}

#: Flags that decide what a kind of job measures, with the defaults of its main. Results hold them by the same names.
MEASURED_BY: dict[str, dict[str, Any]] = {
    "holdout": {"fraction": 0.05, "by": "random"},
    "evaluate": {"prompt": "seen"},
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One cell with one seed.

    Attributes:
      cell: of the grid.
      seed: of the run.
      folder: its directory, DIR/<cell>/seed<seed>; beside it lie its log and, if it failed, the reason.
      config: of the run; None for `evaluate`.
      base: the job that it builds on; None without one.
    """

    cell: Cell
    seed: int
    folder: pathlib.Path
    config: Any
    base: "Job | None" = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def result(self) -> pathlib.Path:
        """The file that is written last."""
        return self.folder / _RESULT.get(self.cell.kind, "result.json")

    @property
    def log(self) -> pathlib.Path:
        """Everything that the job printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def failure(self) -> pathlib.Path:
        """Holds one line while the last attempt failed."""
        return self.folder.with_name(f"{self.folder.name}.failed")

    def read_result(self) -> dict[str, Any]:
        """Returns what the job wrote last, nothing while it has not finished; raises DataError if it is damaged."""
        advice = f"remove {self.folder} and run the grid again"
        return read_json(self.result, advice=advice) if self.result.is_file() else {}

    def check(self) -> None:
        """Checks that what is in the directory, and in that of the job that it builds on, is of this grid.

        A field that the run does not know, because it is younger, is no difference while it has its default. Nor is a
        flag that an older result does not hold.

        Raises:
          ConfigError: it was run with another config or other flags, or rests on a run that was trained anew since.
          DataError: it is damaged.
        """
        if self.base is not None:
            self.base.check()
        result = self.read_result()
        run = Workdir(_of(self.cell, self.folder))
        known = result.get(BUILT_ON)
        if self.cell.of and known and run.finished and known != run.result_hash():
            raise ConfigError(f"{self.folder}: rests on an earlier run of {self.cell.of}; remove it to run it again")
        defaults = MEASURED_BY.get(self.cell.kind, {})
        flags = {name: str(self.cell.flags.get(name, default)) for name, default in defaults.items()}
        self._compare({name: str(result.get(name, value)) for name, value in flags.items()}, flags, "other flags")
        there = read_config(self.folder)
        if there is not None and self.config is not None:
            self._compare(flatten(type(self.config)()) | there, flatten(self.config), "another config")

    def _compare(self, there: Flat, here: Flat, what: str) -> None:
        changed = [f"{name}: {there.get(name)} there, {here.get(name)} here" for name in differences(there, here)]
        if changed:
            raise ConfigError(
                f"{self.folder}: holds a run with {what} ({'; '.join(changed)}); "
                "remove it to run it again, or give another --workdir"
            )

    @property
    def can_be_read(self) -> bool:
        """Whether the directory has a config of this version, which other runs can read."""
        there = read_config(self.folder)
        return there is not None and there.keys() == flatten(self.config).keys()

    def command(self, donor: pathlib.Path | None = None) -> list[str]:
        """Returns the words of the command, reusing stages of `donor`."""
        words = [sys.executable, "-m", KINDS[self.cell.kind]]
        if self.cell.kind == "evaluate":
            words += [f"--workdir={_of(self.cell, self.folder)}", f"--output={self.folder}"]
        else:
            words += [f"--config={self.cell.config}", f"--workdir={self.folder}", f"--config.seed={self.seed}"]
            words += override_flags(_overrides(self.cell, self.folder))
        words += [f"--{name}={value}" for name, value in self.cell.flags.items()]
        return words + ([f"--reuse={donor}"] if donor else [])


def plan(grid: Grid, workdir: pathlib.Path, *, seeds: Sequence[int] = (), only: str = "") -> list[Job]:
    """Returns the jobs of a grid: all cells with the first seed, then with the next.

    Args:
      grid: to run.
      workdir: directory of the grid.
      seeds: instead of the grid's own.
      only: regular expression that the names of the cells must hold.

    Raises:
      ConfigError: no cell is left, or the config of a cell is wrong.
    """
    try:
        names = {cell.name for cell in grid.cells if re.search(only, cell.name)}
    except re.error as error:
        raise ConfigError(f"--only={only}: not a regular expression: {error}") from None
    if not names:
        raise ConfigError(f"--only={only}: matches none of the cells {', '.join(cell.name for cell in grid.cells)}")
    # All of them, for those that others build on.
    jobs: dict[tuple[str, int], Job] = {}
    for seed in seeds or grid.seeds:
        for cell in (_settled(cell, grid) for cell in grid.cells):
            folder = workdir / cell.name / f"seed{seed}"
            base = jobs.get((cell.of, seed))
            jobs[cell.name, seed] = Job(cell, seed, folder, _config(cell, seed, folder), base)
    return [job for (name, _), job in jobs.items() if name in names]


def _settled(cell: Cell, grid: Grid) -> Cell:
    """Returns a cell with what its kind sets itself; it ranks the closed-form baselines if tables take them from it."""
    set_here: dict[str, Any] = {}
    if cell.kind == "holdout" or (cell.kind == "train" and grid.reference not in ("", cell.name)):
        set_here["evaluation.baselines"] = False
    if cell.kind == "holdout":
        set_here["evaluation.graph"] = "training"
    return dataclasses.replace(cell, overrides={**set_here, **cell.overrides})


def _of(cell: Cell, folder: pathlib.Path) -> pathlib.Path:
    """Returns the directory of the run that a cell builds on."""
    return folder.parent.parent / cell.of / folder.name


def _overrides(cell: Cell, folder: pathlib.Path) -> dict[str, Any]:
    return {
        name: value.replace(OF, str(_of(cell, folder))) if isinstance(value, str) else value
        for name, value in cell.overrides.items()
    }


def _config(cell: Cell, seed: int, folder: pathlib.Path) -> Any:
    if cell.kind == "evaluate":
        return None
    try:
        return make_config(cell.config, {**_overrides(cell, folder), "seed": seed})
    except ConfigError as error:
        raise ConfigError(f"cell {cell.name}: {error}") from None
