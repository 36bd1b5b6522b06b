"""What a grid is: cells that are trained with every seed and compared. Read `Grid`, then `load_grid`.

A grid file is Python with a docstring that says which question it answers, and
`get_grid(argument: str) -> Grid` whose argument has a default: `--grid=FILE[:ARGUMENT]`.
"""

import dataclasses
import re
from typing import Any

from experiments.ablation.python_file import load_function
from tokenrec_jax.types import ConfigError

#: Kinds of cells, each with the main that runs it.
KINDS = {
    "train": "experiments.train",
    "baseline": "experiments.baseline",
    "evaluate": "experiments.evaluate",
    "holdout": "experiments.holdout",
}

#: Stands in overrides for the directory of the run that a cell builds on.
OF = "{of}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes:
      name: of its row and of its folder.
      axes: where the cell stands in tables and plots, by name of the axis; numbers make curves and heat maps.
      config: FILE[:ARGUMENT] of its config; empty for `evaluate`, which takes that of `of`.
      overrides: values of config fields, by dotted name; `OF` in them is the directory of the run of `of`.
      kind: one of `KINDS`.
      flags: further flags of the main, without dashes.
      of: an earlier cell whose finished run, of the same seed, this one builds on; an `evaluate` cell evaluates it.
    """

    name: str
    axes: dict[str, Any]
    config: str = ""
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    kind: str = "train"
    flags: dict[str, Any] = dataclasses.field(default_factory=dict)
    of: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cells to compare.

    Attributes:
      title: of tables and pages.
      cells: in the order in which they run and are shown.
      reference: name of the cell that the others are compared with; empty for none.
      seeds: seeds of every cell unless `--seeds` says otherwise.
      beside: systems inside the runs, such as `lightgcn`, that are shown for each cell and not only for the reference.
      question: docstring of the grid file; `load_grid` fills it in.
    """

    title: str
    cells: tuple[Cell, ...]
    reference: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    beside: tuple[str, ...] = ()
    question: str = ""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, in the order in which cells mention them."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.axes))


def load_grid(given: str) -> Grid:
    """Returns the grid of `--grid=FILE[:ARGUMENT]`.

    Raises:
      ConfigError: the file cannot be read or run, or the grid contradicts itself.
    """
    module, get_grid = load_function(given, "get_grid", flag="--grid")
    grid = get_grid()
    if not isinstance(grid, Grid):
        raise ConfigError(f"--grid={given}: get_grid returned a {type(grid).__name__}; allowed is a Grid")
    problem = _problem(grid)
    if problem:
        raise ConfigError(f"--grid={given}: {problem}")
    return dataclasses.replace(grid, question=(module.__doc__ or "").strip())


def _problem(grid: Grid) -> str:
    """Returns what is wrong with a grid, or nothing."""
    if not grid.cells or not grid.seeds:
        return "no cells or no seeds; at least one of each is needed"
    earlier: set[str] = set()
    for cell in grid.cells:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", cell.name):
            return f"cell {cell.name!r}: allowed are names of letters, digits, '.', '_' and '-'"
        if cell.name in earlier:
            return f"cell {cell.name}: there are two of this name"
        if cell.kind not in KINDS:
            return f"cell {cell.name}: kind is {cell.kind!r}; allowed: {', '.join(KINDS)}"
        if (cell.kind == "evaluate") == bool(cell.config) or (cell.kind == "evaluate" and not cell.of):
            return f"cell {cell.name}: cells of kind 'evaluate' have `of` and no `config`, all others have `config`"
        if cell.of and cell.of not in earlier:
            return f"cell {cell.name}: of is {cell.of!r}; allowed are the cells before it"
        earlier.add(cell.name)
    if grid.reference and grid.reference not in earlier:
        return f"reference is {grid.reference!r}; allowed are the names of its cells"
    return ""
