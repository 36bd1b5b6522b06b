"""How many books, and how many codes in each? K of 1 to 5 books times L of 64 to 512 codes.

Command: python -m experiments.ablate --grid=experiments/grids/vocabulary.py:lastfm --workdir=runs/vocabulary
Minutes on one core beside others: 135 for the 20 cells of LastFM, one seed.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose

BOOKS, CODES = (1, 2, 3, 4, 5), (64, 128, 256, 512)


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(
            f"k{books}-l{codes}",
            {"books": books, "codes": codes},
            config=dataset.config,
            overrides={"tokenizer.num_books": books, "tokenizer.book_size": codes},
        )
        for books in BOOKS
        for codes in CODES
    )
    return Grid(f"Books and codes, {dataset.name}", cells, reference="k3-l256")
