"""Should the language model read tokens of the user? Learned with the graph, folded in from the history, or none.

The learned vector of a user has seen all training targets, which a model may lean on; folded tokens know only the
history. They need the prompt objective, where one history has one vector, so all three are compared there, and learned
and none also with the dense objective. The number of training targets is the same for all.

Command: python -m experiments.ablate --grid=experiments/grids/user_tokens.py:lastfm --workdir=runs/user-tokens
Minutes on one core beside others: 98 for five cells of LastFM, one seed.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    objectives = {"prompt": dataset.prompt_steps(), "dense": {}}
    choices = {"prompt": ("none", "learned", "folded"), "dense": ("none", "learned")}
    cells = tuple(
        Cell(
            f"{objective}-{tokens}",
            {"objective": objective, "user tokens": tokens},
            config=dataset.config,
            overrides={"llm.objective": objective, "llm.user_tokens": tokens, **steps},
        )
        for objective, steps in objectives.items()
        for tokens in choices[objective]
    )
    return Grid(f"User tokens, {dataset.name}", cells, reference="prompt-none")
