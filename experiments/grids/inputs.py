"""What do the tokens buy? The language model reads an item's codes, its collaborative vector, or both.

Command: python -m experiments.ablate --grid=experiments/grids/inputs.py:lastfm --workdir=runs/inputs
Minutes: 29 for seed 0 on one core, compiled anew in each cell; the table is in experiments/README.md.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose

#: (codes, vector) by name.
INPUTS = {"both": (True, True), "codes": (True, False), "vector": (False, True)}


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(
            name,
            {"input": name},
            config=dataset.config,
            overrides={
                "llm.item_positions": "pooled",
                "llm.codes_at_input": codes,
                "llm.item_vectors_at_input": vector,
            },
        )
        for name, (codes, vector) in INPUTS.items()
    )
    return Grid(f"What is read of an item, {dataset.name}", cells, reference="both")
