"""The commands as a user types them: own data in, recommendations out; and what happens when something is wrong."""

import csv
import dataclasses
import json
import pathlib
import subprocess

import numpy as np
import pytest

from experiments.baseline_models import semantic_ids
from experiments.configs import baselines_tiger
from tests.commands import command, commands
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.training.finished import FinishedRun
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, DataError


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pathlib.Path:
    """A shop's own log: string ids, other column names, titles, categories, times."""
    data = synthetic_interactions(name="shop", num_users=120, num_items=60, seed=1)
    path = tmp_path_factory.mktemp("shop") / "log.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "sku", "when", "name", "brand", "category"])
        for user in range(data.num_users):
            for time, item in enumerate(data.history(user)):
                about = [f"Thing {item}", f"brand {item % 3}", f"kind {item % 5}|all"]
                writer.writerow([f"c{user}", f"sku-{item}", 1_600_000_000 + time, *about])
    return path


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory) -> tuple[pathlib.Path, list[str], str]:
    """A finished run on it: its directory, the flags of its command, what it printed."""
    folder = tmp_path_factory.mktemp("run")
    flags = [
        "--config=experiments/configs/tiny.py", f"--workdir={folder}/shop", f"--config.data.cache_dir={folder}/cache",
        "--config.data.source=interactions", f"--config.data.path={table}", "--config.data.user_column=customer",
        "--config.data.item_column=sku", "--config.data.timestamp_column=when", "--config.data.title_column=name",
        "--config.data.feature_columns=brand,category", "--config.seed=3", "--config.evaluation.graph=known",
    ]  # fmt: skip
    done = command("train", *flags)
    assert done.returncode == 0, done.stderr
    return folder / "shop", flags, done.stdout


def test_a_run_leaves_what_the_readme_says(trained):
    workdir, _, printed = trained
    left = {path.name for path in workdir.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "result.json", "dataset"} <= left
    assert json.loads((workdir / "config.json").read_text())["data"]["feature_columns"] == ["brand", "category"]
    first = Workdir(workdir).interactions()
    assert first.item_attributes is not None and len(first.item_attributes[0]) == 3
    result = json.loads((workdir / "result.json").read_text())
    assert result["seed"] == 3
    about_the_run = {"dataset", "seed", "protocol", "graph", "held_out", "steps", "seconds"}
    assert set(result) == {*about_the_run, "valid", "test", "baselines"}
    assert set(result["baselines"]) == {"popularity", "item_knn", "lightgcn", "ease"}
    assert result["baselines"]["ease"]["l2"] > 0
    assert set(result["seconds"]) == {"collaborative", "tokenizer", "llm"}
    promised = {f"{name}@{k}" for name in ("hr", "ndcg", "mrr", "recall", "coverage") for k in (5, 10, 20, 30)}
    for metrics in (result["valid"], result["test"], result["baselines"]["lightgcn"]["test"]):
        assert promised <= set(metrics)
    assert result["test"]["hr@10"] > result["baselines"]["popularity"]["test"]["hr@10"]
    assert "TokenRec" in printed and "item_knn" in printed and str(workdir) in printed
    kinds = {json.loads(line)["kind"] for line in (workdir / "metrics.jsonl").read_text().splitlines()}
    assert kinds == {"train", "valid", "diagnostics"}


def test_run_again_it_says_that_it_is_finished(trained):
    workdir, flags, printed = trained
    before = (workdir / "result.json").stat().st_mtime_ns
    again = command("train", *flags)
    assert again.returncode == 0
    assert "this run is finished" in again.stderr
    assert again.stdout == printed
    assert (workdir / "result.json").stat().st_mtime_ns == before


def test_evaluate_repeats_the_result_and_knows_the_unseen_prompt(trained):
    workdir, _, _ = trained
    result = json.loads((workdir / "result.json").read_text())
    asked = ("--split=valid", "--split=test", "--prompt=unseen")
    printed = commands([("evaluate", [f"--workdir={workdir}", flag]) for flag in asked])
    for split, done in zip(("valid", "test"), printed, strict=False):
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert {name: found[name] for name in result[split]} == result[split]
    unseen = json.loads(printed[2].stdout)
    assert unseen["prompt"] == "unseen"
    assert unseen["mrr@30"] != result["test"]["mrr@30"]


def test_a_refit_has_learned_from_the_validation_items_and_only_test_is_ranked(trained, tmp_path):
    workdir, _, _ = trained
    first = json.loads((workdir / "result.json").read_text())
    evaluation = [f"--workdir={tmp_path}/refit", f"--output={tmp_path}/kept"]
    done, again, refused = commands(
        [
            ("refit", [f"--run={workdir}", f"--workdir={tmp_path}/refit"]),
            ("evaluate", [evaluation[0], "--split=test"]),
            ("evaluate", [*evaluation, "--split=valid"]),
        ]
    )
    assert done.returncode == 0, done.stderr
    assert "trained on everybody's validation item" in done.stdout
    result = json.loads((tmp_path / "refit" / "result.json").read_text())
    assert result["steps"] == first["steps"] and result["held_out"] == 1
    assert "valid" not in result and result["test"]["users"] == first["test"]["users"]
    assert result["test"]["mrr@30"] != first["test"]["mrr@30"]
    assert json.loads(again.stdout)["mrr@30"] == result["test"]["mrr@30"]
    assert not (tmp_path / "kept").exists()
    assert refused.returncode == 1 and "this run was trained on its items; allowed: test" in refused.stderr


def test_a_bundle_is_a_run_that_only_recommends(trained, tmp_path):
    workdir, _, _ = trained
    bundle = tmp_path / "bundle"
    export = ("export", [f"--workdir={workdir}", f"--output={bundle}", "--format=bundle"])
    asked = [("recommend", [f"--workdir={folder}", "--user=c5"]) for folder in (workdir, bundle)]
    done, of_run, of_bundle, again = commands([export, *asked, export])
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (bundle / "checkpoints").iterdir()} == {"final"}
    assert of_bundle.stdout == of_run.stdout != ""
    assert again.returncode == 1 and "is there already" in again.stderr


@pytest.fixture(scope="module")
def recommended(trained) -> list[list[str]]:
    """What the command prints for user c5, by lines and words."""
    done = command("recommend", f"--workdir={trained[0]}", "--user=c5", "--k=7")
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_recommend_prints_rank_id_title_score(recommended):
    rows = recommended
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, 8)]
    assert all(row[1] == f"sku-{row[3]}" and row[2] == "Thing" for row in rows)
    scores = [float(row[4]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_the_recommender_excludes_what_was_seen_and_agrees_with_the_command(trained, recommended):
    workdir, _, _ = trained
    recommender = Recommender.load(str(workdir))
    users = ["c5", "c0", "c77"]
    found = recommender.recommend(users, k=60)
    for user, items in zip(users, found, strict=True):
        row = recommender.interactions.user_ids.index(user)
        seen = {recommender.interactions.item_ids[i] for i in recommender.interactions.history(row)}
        assert not seen & {r.item for r in items}
        assert len(items) == 60 - len(seen)
    assert recommender.recommend([]) == []
    with_seen = recommender.recommend(["c5"], k=60, exclude_seen=False)[0]
    assert len(with_seen) == 60
    np.testing.assert_allclose([r.score for r in with_seen], sorted((r.score for r in with_seen), reverse=True))
    assert [row[1] for row in recommended] == [r.item for r in found[0][:7]]
    with pytest.raises(DataError, match="user 'nobody': not among the 120 users"):
        recommender.recommend(["nobody"])


def test_a_loaded_run_rests_on_all_and_the_codes_of_a_rival_on_the_training(trained):
    workdir, _, _ = trained
    run = FinishedRun.open(str(workdir))
    count = run.interactions.num_items
    trained_to = {name: np.asarray(run.buffers["tables"][name])[:count] for name in ("item_codes", "item_vectors")}
    config = baselines_tiger.get_config("tiny")
    config.codes = str(workdir)
    ids = semantic_ids(config, run.interactions)
    np.testing.assert_array_equal(ids.codes[:, : trained_to["item_codes"].shape[1]], trained_to["item_codes"])
    served = Recommender.load(str(workdir)).model.tables.item_vectors[...]
    assert not np.allclose(served[:count], trained_to["item_vectors"], atol=1e-4)
    others = synthetic_interactions(name="other", num_users=60, num_items=40, seed=0)
    with pytest.raises(ConfigError, match="a run on other items; give one on other"):
        semantic_ids(config, others)
    # The last item of user 0 stands where the run was trained on another one, as with ties in another order.
    items = run.interactions.items.copy()
    start, end = run.interactions.indptr[:2]
    items[start:end] = np.roll(items[start:end], 1)
    with pytest.raises(ConfigError, match="trained on interactions that are not trained on here"):
        semantic_ids(config, dataclasses.replace(run.interactions, items=items))


FAILURES = {
    "unknown user": ("recommend", ["--workdir={workdir}", "--user=nobody"], "user 'nobody': not among"),
    "no user": ("recommend", ["--workdir={workdir}"], "--user: not given"),
    "no run": ("recommend", ["--workdir={tmp}/nothing", "--user=1"], "holds no run"),
    "refit in place": ("refit", ["--run={workdir}", "--workdir={workdir}/../shop"], "is the run itself"),
    "refit of nothing there": ("refit", ["--run={tmp}", "--workdir={tmp}/new"], "--run={tmp}: holds no run"),
    "refit of nothing": ("refit", ["--workdir={tmp}/new"], "--run: not given"),
    "unfinished run": ("evaluate", ["--workdir={tmp}/begun"], "the run has not finished"),
    "no mesh": ("evaluate", ["--workdir={workdir}", "--mesh=2,1"], "--mesh=2,1: allowed are three numbers"),
    "other mesh": ("recommend", ["--workdir={workdir}", "--user=c5", "--mesh=1,3,1"], "does not cover 1 devices"),
    "a baseline": ("recommend", ["--workdir={tmp}/rival", "--user=1"], "is a run of the baseline sasrec; allowed are"),
    "no query": ("evaluate", ["--workdir={tmp}/graph"], "graph: was trained in stages collaborative, without llm"),
    "a baseline that cannot be": (
        "baseline",
        ["--baseline=sasrec", "--config=experiments/configs/baselines_sasrec.py:tiny", "--workdir={tmp}/new",
         "--config.data.max_history=10"],
        "data.history_buckets",
    ),
    "export of a baseline": (
        "export", ["--workdir={tmp}/rival", "--output={tmp}/new", "--format=bundle"], "is a run of the baseline sasrec"
    ),
    "damaged config": ("evaluate", ["--workdir={tmp}/cut"], "cut/config.json: not JSON: "),
    "reuse of a baseline": (
        "train",
        ["--config=experiments/configs/tiny.py", "--workdir={tmp}/new", "--reuse={tmp}/rival"],
        "--reuse={tmp}/rival: is a run of the baseline sasrec",
    ),
    "reuse of nothing": (
        "train",
        ["--config=experiments/configs/tiny.py", "--workdir={tmp}/new", "--reuse={tmp}/nothing"],
        "--reuse={tmp}/nothing: holds no run",
    ),
    "grid in a run": (
        "ablate", ["--grid=experiments/grids/mask_ratio.py", "--workdir={tmp}/begun"], "is the directory of a run"
    ),
    "no config": ("train", ["--workdir={tmp}/new"], "--config: not given"),
    "no config file": ("train", ["--config=nowhere.py", "--workdir={tmp}/new"], "nowhere.py"),
    "no workdir": ("train", ["--config=experiments/configs/tiny.py"], "--workdir: not given"),
    "unknown field": ("train", ["--config=experiments/configs/tiny.py", "--config.data.colour=1"], "colour"),
    "wrong type": ("train", ["--config=experiments/configs/tiny.py", "--config.seed=x"], "config.seed"),
    "unknown flag": ("evaluate", ["--workdir={workdir}", "--spilt=test"], "spilt"),
    "evaluation into a run": ("evaluate", ["--workdir={workdir}", "--output={workdir}"], "is the directory of a run"),
    "unknown split": ("evaluate", ["--workdir={workdir}", "--split=train"], "valid|test"),
    "unknown source": (
        "train",
        ["--config=experiments/configs/tiny.py", "--workdir={tmp}/new", "--config.data.source=netflix"],
        "data.source is 'netflix'; allowed: tokenrec, interactions",
    ),
    "missing file": (
        "train",
        ["--config=experiments/configs/tiny.py", "--workdir={tmp}/new", "--config.data.source=interactions",
         "--config.data.path={tmp}/missing.csv"],
        "missing.csv",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def failures(trained, tmp_path_factory) -> tuple[pathlib.Path, dict[str, subprocess.CompletedProcess[str]]]:
    """What all of those printed, and the folder that they had."""
    workdir, tmp = trained[0], tmp_path_factory.mktemp("failures")
    config = (workdir / "config.json").read_text()
    graph = json.dumps(json.loads(config) | {"stages": ["collaborative"]})
    rival = '{"system": "sasrec"}'
    made = (("begun", config, None), ("rival", "{}", rival), ("cut", "{", "{}"), ("graph", graph, "{}"))
    for folder, text, result in made:
        (tmp / folder).mkdir()
        (tmp / folder / "config.json").write_text(text)
        if result is not None:
            (tmp / folder / "result.json").write_text(result)
    given = [
        (module, [argument.format(workdir=workdir, tmp=tmp) for argument in arguments])
        for module, arguments, _ in FAILURES.values()
    ]
    return tmp, dict(zip(FAILURES, commands(given), strict=True))


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_one_line_and_exit_status_one(failures, name):
    tmp, printed = failures
    done = printed[name]
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert FAILURES[name][2].format(tmp=tmp) in lines[0]
    assert not (tmp / "new").exists()
