"""Hand-made grids and runs for tests of the results runner and of the pages."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments.ablation.grid import Cell, Grid
from experiments.ablation.plan import Job
from tokenrec_jax.evaluation import ranking
from tokenrec_jax.training.workdir import Workdir

TINY = "experiments/configs/tiny.py"

GRID = Grid(
    "Masks <&>",
    (
        Cell("mask-0.2", {"mask ratio": 0.2}, config=TINY, overrides={"tokenizer.mask_ratio": 0.2}),
        Cell("mask-0.4", {"mask ratio": 0.4}, config=TINY, overrides={"tokenizer.mask_ratio": 0.4}),
    ),
    reference="mask-0.2",
    seeds=(0, 1),
    question="Does <masking> help?",
)


def finish(
    folder: pathlib.Path, systems: dict[str, Sequence[int]], *, own: str = "tokenrec", seconds: float = 60.0
) -> None:
    """Leaves a finished run whose systems have these ranks on both splits."""
    ranks = {name: np.array(values, np.int32) for name, values in systems.items()}
    metrics = {
        name: ranking.metrics(values, (10, 30)) | {"coverage@10": 0.25, "coverage@30": 0.5}
        for name, values in ranks.items()
    }
    both = {name: {"valid": values, "test": values} for name, values in metrics.items()}
    result = {
        "dataset": "LastFM",
        "seed": 0,
        **({} if own == "tokenrec" else {"system": own}),
        **both.pop(own),
        "baselines": both,
        "seconds": {"collaborative": seconds / 2, "llm": seconds / 2},
    }
    arrays = {f"{name}/{split}": values for name, values in ranks.items() for split in ("valid", "test")}
    users = np.arange(len(ranks[own]), dtype=np.int32)
    folder.mkdir(parents=True, exist_ok=True)
    Workdir(folder).save_result(result, ranks=arrays | {"users/valid": users, "users/test": users})


def write_config(job: Job) -> None:
    """Leaves the config that a run of the job would have."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "config.json").write_text(json.dumps(dataclasses.asdict(job.config)), encoding="utf-8")


def write_metrics(folder: pathlib.Path) -> None:
    """Leaves curves and the use of two books a side; the last line was cut by a kill."""
    use = {
        f"{side}_{kind}_{book}": value
        for side in ("user", "item")
        for kind, value in (("used", 12.0), ("perplexity", 8.0))
        for book in range(2)
    }
    events = [
        {"step": 20, "stage": "collaborative", "kind": "train", "loss": 0.6},
        {"step": 40, "stage": "collaborative", "kind": "train", "loss": 0.3},
        {"step": 60, "stage": "tokenizer", "kind": "diagnostics", "user_sharing": 0.0, "item_sharing": 0.125, **use},
        {"step": 80, "stage": "llm", "kind": "valid", "hr@10": 0.1, "ndcg@10": 0.05},
        {"step": 90, "stage": "llm", "kind": "valid", "hr@10": 0.2, "ndcg@10": 0.07},
    ]
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "metrics.jsonl").write_text(text + '{"step": 95, "sta', encoding="utf-8")
