"""grid.json: the grid that a directory was run with, so that its report needs nothing else. Read `load_record`."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from experiments.ablation.grid import Cell, Grid
from experiments.ablation.plan import Job
from tokenrec_jax.data.files import read_json, write_whole
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError

_FILE = "grid.json"


def save_grid(grid: Grid, workdir: pathlib.Path, *, seeds: Sequence[int]) -> Grid:
    """Writes the grid with the seeds that it was run with, those of earlier runs of the directory too; returns it.

    Raises:
      ConfigError: another grid was run there, or the directory is that of a run.
    """
    if Workdir(workdir).begun:
        raise ConfigError(f"--workdir={workdir}: is the directory of a run; give one of the grid's own")
    before = load_record(workdir)[0] if is_grid(workdir) else dataclasses.replace(grid, seeds=())
    if before.title != grid.title:
        raise ConfigError(f"--workdir={workdir}: holds the grid {before.title!r}; give {grid.title!r} another one")
    kept = dataclasses.replace(grid, seeds=tuple(dict.fromkeys((*before.seeds, *seeds))))
    write_whole(workdir / _FILE, json.dumps(dataclasses.asdict(kept), indent=2) + "\n")
    return kept


def load_record(workdir: pathlib.Path) -> tuple[Grid, list[Job]]:
    """Returns the grid of a directory and its jobs, to be read but not run: they have no configs."""
    values = read_json(workdir / _FILE, advice="remove it and run the grid again, which keeps what is done")
    cells = tuple(Cell(**cell) for cell in values.pop("cells"))
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    grid = Grid(**{**values, **lists, "cells": cells})
    jobs = [Job(cell, seed, workdir / cell.name / f"seed{seed}", None) for seed in grid.seeds for cell in grid.cells]
    return grid, jobs


def is_grid(workdir: pathlib.Path) -> bool:
    """Returns whether a directory is one of the runner's."""
    return (workdir / _FILE).is_file()
