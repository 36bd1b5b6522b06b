"""Which loss? Softmax over the whole catalogue, or cosine ranking against one sampled item (the paper) or against many.

Command: python -m experiments.ablate --grid=experiments/grids/losses.py:lastfm --workdir=runs/losses
Minutes: 21 for seed 0 on one core; the table is in experiments/README.md.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose

#: Overrides by name.
LOSSES = {
    "softmax": {"loss.kind": "softmax"},
    "pairwise-1": {"loss.kind": "pairwise", "loss.num_negatives": 1},
    "pairwise-32": {"loss.kind": "pairwise", "loss.num_negatives": 32},
}


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(name, {"loss": name}, config=dataset.config, overrides=overrides) for name, overrides in LOSSES.items()
    )
    return Grid(f"Losses, {dataset.name}", cells, reference="softmax")
