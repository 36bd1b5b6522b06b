"""One query a prompt or one after every item of a history? Both see the same number of training targets.

Command: python -m experiments.ablate --grid=experiments/grids/objective.py:lastfm --workdir=runs/objective
Minutes on one core: 37, beside other work.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    overrides = {"dense": {}, "prompt": dataset.prompt_steps()}
    cells = tuple(
        Cell(
            objective,
            {"objective": objective},
            config=dataset.config,
            overrides={"llm.objective": objective, **steps},
        )
        for objective, steps in overrides.items()
    )
    return Grid(f"Objective, {dataset.name}", cells, reference="dense")
