"""The results runner: what it runs, what it skips, what it says when something fails, and that its tables are right."""

import copy
import csv
import dataclasses
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from experiments.ablation import summary
from experiments.ablation.child import Children, only_runner
from experiments.ablation.configs import make_config, override_flags
from experiments.ablation.donors import choose_donor
from experiments.ablation.grid import Cell, Grid, load_grid
from experiments.ablation.plan import Job, plan
from experiments.ablation.results import read_job
from experiments.ablation.runner import run_jobs
from experiments.ablation.tables import report, tidy_csv
from tests.conftest import REPOSITORY
from tests.grids import GRID, TINY, finish, write_config
from tokenrec_jax.evaluation.statistics import interval, paired_difference, per_user
from tokenrec_jax.types import ConfigError

GRID_FILES = sorted(
    path for path in (REPOSITORY / "experiments" / "grids").glob("*.py") if path.stem not in ("__init__", "datasets")
)


class Fake:
    """Stands for the processes: notes what was asked, fails where told to, finishes the rest."""

    def __init__(self, failing: str = "", stop_at: int = 0):
        self.commands: list[list[str]] = []
        self.failing = failing
        self.stop_at = stop_at

    @property
    def stopped(self) -> bool:
        return 0 < self.stop_at <= len(self.commands)

    def __call__(self, command, log: pathlib.Path) -> int:
        self.commands.append(list(command))
        folder = pathlib.Path(value_of(command, "--workdir="))
        if self.stopped:
            return 1
        if self.failing and self.failing in str(folder):
            log.write_text("[12:00:00] begins\nerror: loss is nan; lower the rate\nat exit\n", encoding="utf-8")
            return 1
        finish(folder, {"tokenrec": [1, 2, 30], "popularity": [5, 50, 50]})
        write_config(next(job for job in plan(GRID, folder.parent.parent) if job.folder == folder))
        return 0


def value_of(command, start: str) -> str:
    return next((word.removeprefix(start) for word in command if word.startswith(start)), "")


def go(jobs: list[Job], fake: Fake, reports: list | None = None, among: list[Job] | None = None):
    return run_jobs(
        jobs,
        among=among or jobs,
        run=fake,
        stopping=lambda: fake.stopped,
        report=lambda: reports.append(None) if reports is not None else None,
    )


def test_jobs_run_in_order_and_finished_ones_are_skipped(tmp_path):
    jobs, fake, reports = plan(GRID, tmp_path), Fake(), []
    outcome = go(jobs, fake, reports)
    assert [job.name for job in outcome.finished] == [
        "mask-0.2, seed 0", "mask-0.4, seed 0", "mask-0.2, seed 1", "mask-0.4, seed 1"
    ]  # fmt: skip
    assert not outcome.failed and outcome.stopped is None and len(reports) == 4
    first, second = fake.commands[:2]
    assert first[1:3] == ["-m", "experiments.train"]
    assert f"--workdir={tmp_path}/mask-0.2/seed0" in first
    # Baselines that are the same for all cells are ranked once a seed.
    assert [f"--config.evaluation.baselines={on}" in second for on in ("false", "true")] == [True, False]
    assert not any("baselines" in word for word in first)
    assert "--config.seed=0" in first and "--config.tokenizer.mask_ratio=0.4" in second
    # The graph encoder of the first cell is also that of the second, of the same seed.
    assert [value_of(words, "--reuse=") for words in fake.commands] == [
        "", f"{tmp_path}/mask-0.2/seed0", "", f"{tmp_path}/mask-0.2/seed1"
    ]  # fmt: skip
    again = Fake()
    assert len(go(jobs, again).finished) == 4 and not again.commands


def test_a_selected_cell_takes_over_the_stages_of_one_that_is_not(tmp_path):
    go(plan(GRID, tmp_path, seeds=[0, 1], only="0.2"), Fake())
    only, everything = plan(GRID, tmp_path, seeds=[1], only="0.4"), plan(GRID, tmp_path, seeds=[1])
    fake = Fake()
    assert go(only, fake, among=everything).finished == everything
    assert [value_of(words, "--reuse=") for words in fake.commands] == [f"{tmp_path}/mask-0.2/seed1"]
    # A directory that holds a run with another config than the grid has now gives nothing.
    changed = dataclasses.replace(GRID.cells[0], overrides={"tokenizer.mask_ratio": 0.6})
    grid = dataclasses.replace(GRID, cells=(changed, GRID.cells[1]))
    only[0].result.unlink()
    go(only, fake, among=plan(grid, tmp_path, seeds=[1]))
    assert value_of(fake.commands[1], "--reuse=") == ""


def test_a_stop_is_told_and_the_same_command_goes_on(tmp_path):
    jobs = plan(GRID, tmp_path)
    outcome = go(jobs, Fake(stop_at=2))
    assert len(outcome.finished) == 1 and outcome.stopped is jobs[1] and not outcome.failed
    assert not jobs[1].failure.exists()
    rest = Fake()
    assert len(go(jobs, rest).finished) == 4
    assert len(rest.commands) == 3 and value_of(rest.commands[0], "--reuse=") == f"{tmp_path}/mask-0.2/seed0"


def test_a_failing_cell_is_one_line_and_the_others_go_on(tmp_path, caplog):
    jobs = plan(GRID, tmp_path, seeds=[0])
    outcome = go(jobs, Fake(failing="mask-0.2"))
    assert outcome.failed == [jobs[0]] and outcome.finished == [jobs[1]]
    text = report(GRID, [read_job(job) for job in jobs])
    assert f"| mask-0.2, seed 0 | loss is nan; lower the rate; log: {jobs[0].log} |" in text
    assert "| mask-0.2 | 0.2 | 1 failed |" in text
    # What failed is tried again, and nothing of the failure stays.
    assert len(go(jobs, Fake()).finished) == 2
    assert "ailed" not in report(GRID, [read_job(job) for job in jobs])


def test_a_changed_grid_is_an_error_of_its_cell_alone(tmp_path):
    jobs = plan(GRID, tmp_path, seeds=[0])
    for job in jobs:
        finish(job.folder, {"tokenrec": [1]})
        write_config(job)
    other = dataclasses.replace(GRID.cells[1], overrides={"tokenizer.mask_ratio": 0.6})
    changed = plan(dataclasses.replace(GRID, cells=(GRID.cells[0], other)), tmp_path, seeds=[0])
    fake = Fake()
    outcome = go(changed, fake)
    assert outcome.failed == [changed[1]] and not fake.commands
    reason = read_job(changed[1]).message
    assert "tokenizer.mask_ratio: 0.4 there, 0.6 here" in reason and "\n" not in reason
    # With the old grid all is well again.
    assert not go(jobs, fake).failed


def test_a_field_that_is_younger_than_a_run_is_no_change_at_its_default(tmp_path):
    (job,) = plan(GRID, tmp_path, seeds=[0], only="0.2")
    write_config(job)
    config = json.loads((job.folder / "config.json").read_text())
    del config["llm"]["dropout"], config["llm"]["fold_in_scale"]
    (job.folder / "config.json").write_text(json.dumps(config))
    # tiny.py sets the dropout, but leaves the other as it is.
    with pytest.raises(ConfigError, match=r"another config \(llm.dropout: -1.0 there, 0.0 here\); remove it"):
        job.check()
    assert not job.can_be_read


def test_only_seeds_and_wrong_requests(tmp_path):
    assert override_flags({"data.history_buckets": ()}) == ["--config.data.history_buckets=()"]
    assert [job.name for job in plan(GRID, tmp_path, seeds=[7], only="0[.]4$")] == ["mask-0.4, seed 7"]
    for only, message in (("xyz", "matches none of the cells mask-0.2, mask-0.4"), ("(", "not a regular expression")):
        with pytest.raises(ConfigError, match=message):
            plan(GRID, tmp_path, only=only)
    for overrides, message in (
        ({"tokenizer.kinds": "x"}, "cell a: tokenizer.kinds: there is no such field"),
        ({"tokenizer.mask_ratio": "x"}, "cell a: tokenizer.mask_ratio is 'x'; allowed is a float"),
        ({"llm.fold_in": 1}, "cell a: llm.fold_in is 1; allowed is a bool"),
        ({"tokenizer.mask_ratio": 2.0}, "cell a: tokenizer.mask_ratio is 2.0; allowed is 0 or more and below 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan(Grid("t", (Cell("a", {}, config=TINY, overrides=overrides),)), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "get_grid"),
        ("def get_grid(a='x'):\n    return 3\n", "returned a int"),
        ("1 / 0\n", "ZeroDivisionError: division by zero; the file must define get_grid"),
        ("def get_grid():\n    return {}['a']\n", "KeyError: 'a'; get_grid was called with no argument"),
        ("from experiments.ablation.grid import *\ndef get_grid():\n    return Grid('t', ())\n", "no cells"),
        (
            "from experiments.ablation.grid import *\ndef get_grid():\n    return Grid('t', (Cell('../a', {}),))\n",
            "cell '../a': allowed are names of letters",
        ),
        (
            "from experiments.ablation.grid import *\n"
            "def get_grid():\n    return Grid('t', (Cell('a', {}, kind='evaluate', of='b'),))\n",
            "cell a: of is 'b'; allowed are the cells before it",
        ),
    ],
)
def test_wrong_grid_files_are_one_line(tmp_path, text, message):
    file = tmp_path / "grid.py"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_grid(str(file))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_overrides_reach_the_main_as_they_are_meant():
    flags = override_flags(
        {"stages": ("collaborative", "tokenizer"), "llm.fold_in": True, "data.history_buckets": (6, 12)}
    )
    assert flags == [
        "--config.stages=collaborative,tokenizer", "--config.llm.fold_in=true", "--config.data.history_buckets=(6, 12)"
    ]  # fmt: skip


def test_the_donor_shares_most_and_has_the_same_data():
    mine = make_config(TINY, {"llm.dropout": 0.5})
    here = {
        "other data": {"data.synthetic_seed": 3},
        "other seed": {"seed": 1},
        "other graph": {"lightgcn.num_layers": 1},
        "other tokenizer": {"tokenizer.num_books": 2},
        "other model": {"llm.dropout": 0.1, "data.max_history": 12},
        "the same": {},
    }
    configs = {pathlib.Path(name): make_config(TINY, overrides) for name, overrides in here.items()}

    def chosen(*names: str) -> pathlib.Path | None:
        return choose_donor(mine, {pathlib.Path(name): configs[pathlib.Path(name)] for name in names})

    assert chosen(*here) == pathlib.Path("other model")
    assert chosen("other graph", "other tokenizer") == pathlib.Path("other tokenizer")
    assert chosen("other data", "other seed", "other graph") is None and chosen() is None


def test_tables_are_means_over_seeds_and_differences_user_by_user(tmp_path):
    jobs = plan(GRID, tmp_path)
    ranks = {
        "mask-0.2": ([1, 20, 20, 20], [1, 1, 20, 20]),
        "mask-0.4": ([1, 1, 20, 20], [1, 1, 1, 20]),
    }
    for job in jobs:
        finish(job.folder, {"tokenrec": ranks[job.cell.name][job.seed], "popularity": [20, 20, 20, 1]})
    results = [read_job(job) for job in jobs]
    base, better, popularity = summary.summarise(GRID, results, "test")
    shown = better.metrics["hr@10"]
    assert shown.mean == pytest.approx((0.5 + 0.75) / 2) and shown.std == pytest.approx(np.std([0.5, 0.75], ddof=1))
    users = {name: np.mean([per_user(np.array(one), "hr@10") for one in two], axis=0) for name, two in ranks.items()}
    assert shown.interval == interval(users["mask-0.4"], seed=0)
    assert shown.difference == paired_difference(users["mask-0.4"], users["mask-0.2"], seed=0)
    assert shown.difference.mean == pytest.approx(0.25)
    assert base.metrics["hr@10"].difference is None and base.minutes == 1.0 and base.coverage == 0.25
    assert (popularity.label, popularity.own, popularity.metrics["hr@10"].std) == ("popularity", False, 0.0)
    text = report(GRID, results)
    assert "| mask-0.4 | 0.4 | 0, 1 | 0.6250 ± 0.1768 [" in text and "| +0.2500 [" in text


def test_differences_need_the_same_users_and_intervals_need_ranks(tmp_path):
    jobs = plan(GRID, tmp_path, seeds=[0])
    finish(jobs[0].folder, {"tokenrec": [1, 20]})
    finish(jobs[1].folder, {"tokenrec": [1, 20, 20]})
    _, other = summary.summarise(GRID, [read_job(job) for job in jobs], "test")
    assert other.metrics["hr@10"].difference is None and other.metrics["hr@10"].interval is not None
    (jobs[1].folder / "ranks.safetensors").unlink()
    _, other = summary.summarise(GRID, [read_job(job) for job in jobs], "test")
    assert other.metrics["hr@10"].interval is None and other.metrics["hr@10"].mean == pytest.approx(1 / 3)


def test_the_csv_is_tidy(tmp_path):
    jobs = plan(GRID, tmp_path, seeds=[0])
    finish(jobs[0].folder, {"tokenrec": [1, 20], "ease": [1, 1]})
    rows = list(csv.DictReader(io.StringIO(tidy_csv(GRID, [read_job(job) for job in jobs]))))
    (hit,) = [row for row in rows if (row["system"], row["split"], row["metric"]) == ("tokenrec", "test", "hr@10")]
    assert (hit["cell"], hit["mask ratio"], hit["seed"], hit["status"], hit["value"]) == (
        "mask-0.2", "0.2", "0", "finished", "0.5"
    )  # fmt: skip
    assert {row["system"] for row in rows} == {"tokenrec", "ease", ""}
    assert [row["status"] for row in rows if row["cell"] == "mask-0.4"] == ["not run"]


def test_other_kinds_of_cells(tmp_path):
    grid = Grid(
        "kinds",
        (
            Cell("seen", {"prompt": "seen"}, config=TINY),
            Cell("unseen", {"prompt": "unseen"}, kind="evaluate", flags={"prompt": "unseen"}, of="seen"),
            Cell("out", {}, config=TINY, kind="holdout", flags={"fraction": 0.1}),
        ),
        reference="seen",
        seeds=(0,),
    )
    seen, unseen, out = plan(grid, tmp_path)
    assert unseen.command()[1:] == [
        "-m", "experiments.evaluate", f"--workdir={seen.folder}", f"--output={unseen.folder}", "--prompt=unseen"
    ]  # fmt: skip
    assert out.command()[2] == "experiments.holdout" and out.command()[-1] == "--fraction=0.1"
    # What experiments.holdout sets, however the recipe has it, or a finished one would look like another run.
    known = Cell("known", {}, config="experiments/configs/quickstart.py", kind="holdout")
    (job,) = plan(dataclasses.replace(grid, cells=(known,), reference=""), tmp_path)
    assert job.config.evaluation.graph == "training" and "--config.evaluation.graph=training" in job.command()
    finish(seen.folder, {"tokenrec": [1, 20], "ease": [1, 1]})
    finish(unseen.folder, {"tokenrec": [20, 20]})
    # Training has ended but those held out were not yet measured.
    finish(out.folder, {"tokenrec": [1, 20]})
    assert read_job(out).status == "begun"
    group = {"count": 3, "hr@10": 0.5, "hr@10_interval": [0.25, 0.75], "ndcg@10": 0.375}
    out.result.write_text(json.dumps({"seed": 0, "users": {"held_out": group}}))
    text = report(grid, [read_job(job) for job in (seen, unseen, out)])
    assert "| unseen | unseen | 0 | 0.0000" in text and "| -0.5000 [" in text
    assert "| out | 0 | users/held_out | 3 | HR@10 0.5000 [0.250, 0.750] | 0.3750 |" in text


SLOW = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("error: saved", flush=True), sys.exit(1)))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def test_a_signal_reaches_the_child_once_and_a_directory_has_one_runner(tmp_path):
    ready, log = tmp_path / "ready", tmp_path / "log"

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with only_runner(tmp_path) as lock:
        with pytest.raises(ConfigError, match="another runner"), only_runner(tmp_path):
            pass
        children = Children(lock, programs=str(tmp_path))
        thread = threading.Thread(target=interrupt)
        with children.catching_signals():
            thread.start()
            status = children.run([sys.executable, "-c", SLOW, str(ready)], log)
        thread.join()
    assert (status, children.signals, log.read_text()) == (1, [signal.SIGTERM], "error: saved\n")
    with only_runner(tmp_path):
        pass


@pytest.mark.parametrize("named", ["", "elsewhere"])
def test_children_share_compiled_programs_unless_the_environment_names_a_folder(named, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if named:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
    told = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    with only_runner(tmp_path) as lock:
        assert Children(lock, programs="shared").run([sys.executable, "-c", told], tmp_path / "log") == 0
    assert (tmp_path / "log").read_text().strip() == (named or "shared")


@pytest.mark.parametrize("path", GRID_FILES, ids=lambda path: path.stem)
def test_shipped_grids_can_be_planned(path, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    grid = load_grid(str(path.relative_to(REPOSITORY)))
    jobs = plan(grid, tmp_path)
    assert len(jobs) == len(grid.cells) * len(grid.seeds) >= 3
    # Cells differ, or there is nothing to compare.
    commands = [tuple(word for word in job.command() if not word.startswith("--workdir")) for job in jobs]
    assert len(set(commands)) == len(jobs)
    assert f"experiments/grids/{path.name}" in grid.question and "Minutes" in grid.question


@pytest.mark.slow
def test_a_grid_as_a_user_runs_it(tmp_path):
    """Two cells with a prompt that was not trained on; the second command finds all done."""
    grid = tmp_path / "grid.py"
    short = {"train.steps": 2, "data.history_buckets": (), "evaluation.baselines": False}
    short["data.cache_dir"] = str(tmp_path / "cache")
    grid.write_text(
        '"""A question."""\nfrom experiments.ablation.grid import Cell, Grid\n'
        f"SHORT = {short!r}\n"
        "def get_grid():\n"
        f"    seen = Cell('seen', {{}}, config={TINY!r}, overrides=SHORT)\n"
        "    unseen = Cell('unseen', {}, kind='evaluate', flags={'prompt': 'unseen'}, of='seen')\n"
        f"    other = Cell('other', {{}}, config={TINY!r}, overrides={{**SHORT, 'llm.dropout': 0.1}})\n"
        f"    bad = Cell('bad', {{}}, config={TINY!r}, overrides={{**SHORT, 'data.source': 'interactions'}})\n"
        "    return Grid('T', (seen, unseen, other, bad), reference='seen', seeds=(0,))\n"
    )
    command = [sys.executable, "-m", "experiments.ablate", f"--grid={grid}", f"--workdir={tmp_path}/runs"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=REPOSITORY, env=copy.copy(os.environ), capture_output=True, text=True)

    done = run()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: 1 failed: bad, seed 0; run the same command again")
    assert "from " in (tmp_path / "runs" / "other" / "seed0.log").read_text()
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| unseen |" in table and "| lightgcn |" in table and "1 failed" in table
    assert "3 of them finished before" in run().stderr
