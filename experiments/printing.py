"""Prints results of a finished run as text."""

from typing import Any

from tokenrec_jax.evaluation.comparability import HELD_OUT_NOTICES, PROTOCOL_NOTICES
from tokenrec_jax.training.workdir import Workdir

_COLUMNS = ("hr@10", "ndcg@10", "hr@30", "coverage@10")


def print_result(workdir: Workdir) -> None:
    """Prints the test metrics of a finished run beside its baselines, and where everything lies."""
    result = workdir.result()
    rows = {name: metrics["test"] for name, metrics in result["baselines"].items()}
    if "test" in result:
        rows[result.get("system", "TokenRec")] = result["test"]
    for notice in (
        PROTOCOL_NOTICES[result.get("protocol", "honest")],
        HELD_OUT_NOTICES[result.get("held_out", 2)],
        left_out_notice(result.get("left_out")),
    ):
        if notice:
            print(f"\n{notice}")
    if rows:
        _print_table(result, rows)
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result["seconds"].items())
    print(f"training: {spent}")
    print(f"results in {workdir.path}: result.json, metrics.jsonl, checkpoints/")


def left_out_notice(left_out: dict[str, Any] | None) -> str:
    """Returns what every output of a run has to say of users and items that its data lack, as result.json tells them.

    Nothing where it tells of none: "".
    """
    if not left_out:
        return ""
    return (
        f"trained and ranked without a share of {left_out['fraction']:g} of the users (--by={left_out['by']}) and of "
        "the items, see holdout.json: compare with no figure of the whole data set"
    )


def _print_table(result: dict, rows: dict[str, dict[str, float]]) -> None:
    known = ", vectors and counts rest on all that is older than a target" if result.get("graph") == "known" else ""
    print(f"\n{result['dataset']}, test split, full ranking, seed {result['seed']}{known}")
    print("  ".join([f"{'':12}", *(f"{name:>11}" for name in _COLUMNS)]))
    for name, metrics in rows.items():
        figures = (f"{metrics[column]:11.4f}" if column in metrics else f"{'-':>11}" for column in _COLUMNS)
        print("  ".join([f"{name:12}", *figures]))
