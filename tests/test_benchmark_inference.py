"""The inference benchmark compares the same model with itself before it compares times."""

import pytest

from tests.untrained import small_config
from tokenrec_jax.types import ConfigError

pytest.importorskip("torch")

from experiments.suites import inference


@pytest.mark.slow
def test_both_sides_have_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "ROUNDS", 1)
    monkeypatch.setattr(inference, "PEER_USERS", 3)
    config = small_config(tmp_path)
    config.llm.fold_in = False
    found = inference.measure(config)
    assert found["agreement"]["largest_difference"] < 1e-5
    assert found["agreement"]["equal_items"] == 1
    # Five tokens an item there, three here; a template and one user each.
    assert found["prompt_tokens"]["reference"]["longest"] > 5 * 12 > found["prompt_tokens"]["ours"]["longest"]
    figures = found["users_per_second"]
    assert set(figures["ratios"]) == {"ours_prompt", "ours_dense"}
    for mine, peers in figures["ratios"].items():
        assert set(peers) == {"torch_512", "torch_longest", "torch_ours", "beam_longest"}
        for peer, ratio in peers.items():
            assert ratio == figures["medians"][mine] / figures["medians"][peer] > 0


def test_another_recipe_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give a paper-scratch: config"):
        inference.measure(small_config(tmp_path))
