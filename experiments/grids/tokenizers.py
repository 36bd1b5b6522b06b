"""What does the masked VQ buy? Beside residual VQ, k-means of the vectors, and codes that say nothing.

Command: python -m experiments.ablate --grid=experiments/grids/tokenizers.py:lastfm --workdir=runs/tokenizers
Minutes on LastFM, one core: 25.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose

KINDS = ("masked_vq", "residual_vq", "kmeans", "random")


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(kind, {"tokenizer": kind}, config=dataset.config, overrides={"tokenizer.kind": kind}) for kind in KINDS
    )
    return Grid(f"Tokenizers, {dataset.name}", cells, reference="masked_vq")
