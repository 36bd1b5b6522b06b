"""The exported folder runs where this package is not, and recommends the same."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.untrained import small_config, untrained_recommender
from tokenrec_jax.portable.artefact import PLATFORMS, export_portable
from tokenrec_jax.types import ConfigError

ELSEWHERE = """
import json, pathlib, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
histories, users = json.loads(sys.argv[3]), json.loads(sys.argv[4])
from loader import Portable
portable = Portable(sys.argv[1])
found = [portable.recommend(histories[:count], users=users[:count], k=7) for count in (1, len(histories))]
def said(*arguments, **options):
    try:
        portable.recommend(*arguments, **options)
    except ValueError as error:
        return str(error)

refused = [
    said([["nothing"]], users=users[:1]), said([[]], users=users[:1]), said(["item"], users=users[:1]),
    said(histories, users=users, k=-1), said(histories, users=users, k=1.5), said(histories, users=users[1:]),
    said(histories, users=["nobody"] * len(histories)),
]
print(json.dumps([refused, *found, portable.recommend(histories, users=users, k=100, exclude_seen=False)]))
"""

pytest.importorskip("flatbuffers")

#: JAX, NumPy and what they cannot be installed without.
PACKAGES = ("jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder in which nothing but those packages can be imported."""
    folder = tmp_path_factory.mktemp("packages")
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec and spec.origin
        installed = pathlib.Path(spec.origin).parent
        for path in (installed, installed.with_name(f"{name}.libs")):
            if path.is_dir():
                (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("kind", ["prompt", "dense"])
def test_the_folder_recommends_the_same_without_this_package(kind, packages, tmp_path):
    config = small_config(tmp_path / "cache")
    if kind == "dense":
        config.llm.objective, config.llm.item_positions, config.llm.user_tokens = "dense", "pooled", "none"
        config.llm.item_residual = config.llm.item_vectors_at_input = True
    recommender = untrained_recommender(config)
    removed = recommender.recommend(["user-0"], k=1)[0][0].item
    recommender.remove_items([removed])
    export_portable(recommender, str(tmp_path / "portable"), k=10**9)
    about = json.loads((tmp_path / "portable" / "about.json").read_text())
    assert about["platforms"] == list(PLATFORMS)
    # Nothing is carried along that the program does not read.
    assert not [name for name in about["weights"] if "collaborative" in name or "item_tokenizer" in name]

    users = list(recommender.user_ids[:5])
    histories = [recommender.history(user) for user in users]
    # Once more what comes first changes nothing.
    arguments = map(json.dumps, ([history + history[:1] for history in histories], users))
    done = subprocess.run(
        # -I -S: neither this directory, nor PYTHONPATH, nor installed packages.
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, tmp_path / "portable", packages, *arguments],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, one, several, everything = json.loads(done.stdout)
    assert refused[:5] == [
        "history 0: item 'nothing' is not in about.json",
        "history 0 is empty; give one item or more",
        "history 0: items are 'item'; give a list of ids",
        "k is -1; the program returns 1 to 40 items",
        "k is 1.5; the program returns 1 to 40 items",
    ]
    # Learned users are read; otherwise nobody asks who it is.
    named = ["4 users for 5 histories; this model reads one of about.json each", "user 'nobody' is not in about.json"]
    assert refused[5:] == (named if kind == "prompt" else [None, None])
    expected = [recommender.recommend([user], k=7)[0] for user in users]
    assert [[item for item, _, _ in row] for row in several] == [[each.item for each in row] for row in expected]
    np.testing.assert_allclose(
        [[score for *_, score in row] for row in several],
        [[each.score for each in row] for row in expected],
        atol=1e-5,
    )
    assert [item for item, *_ in one[0]] == [item for item, *_ in several[0]]
    assert all({item for item, *_ in row} == {*recommender.item_ids} - {removed} for row in everything)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    recommender = untrained_recommender(small_config(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="is there already"):
        export_portable(recommender, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
