import dataclasses

import jax
import numpy as np
import pytest

from tests.data.test_sampling import interactions
from tokenrec_jax.config import Config, DataConfig, LossConfig
from tokenrec_jax.data.batches import HistoryBatches, train_batches
from tokenrec_jax.types import PADDING, Stage

HISTORIES = [[5, 3, 8, 1, 0, 7, 2], [4, 6], [9, 2, 4], [1]]


def config(objective: str = "prompt", **loss) -> Config:
    made = Config(data=DataConfig(max_history=4, history_buckets=(2, 4)), loss=LossConfig(**loss))
    made.llm.objective = objective
    made.train.batch_size = 3
    made.train.steps = 12
    return made


def batches(objective: str, count: int, *, bucketed: bool = True, **loss):
    made = config(objective, **loss)
    made.data.bucket_batches = bucketed
    make = HistoryBatches(interactions(HISTORIES, 12), config=made, batch_size=3, seed=1)
    return [make(step) for step in range(count)]


def test_prompt_examples_are_prefix_and_next_item_cut_to_the_newest():
    seen = set()
    for batch in batches("prompt", 30):
        assert batch.history.shape[1] in (2, 4)
        for user, history, target in zip(batch.user, batch.history, batch.target[:, 0], strict=True):
            whole = HISTORIES[user]
            end = whole.index(target)
            items = [i for i in history if i != PADDING]
            assert items == whole[max(0, end - 4) : end]
            assert len(items) > batch.history.shape[1] // 2 or batch.history.shape[1] == 2
            seen.add((int(user), int(target)))
    # Every item but the first of each history is a target.
    assert seen == {(user, item) for user, whole in enumerate(HISTORIES) for item in whole[1:]}


@pytest.mark.parametrize(("bucketed", "widths"), [(True, {2, 4}), (False, {4})])
def test_dense_windows_cover_every_target(bucketed, widths):
    seen = set()
    made = batches("dense", 20, bucketed=bucketed)
    assert {batch.history.shape[1] for batch in made} == widths
    for batch in made:
        assert batch.target.shape == batch.history.shape
        for user, history, target in zip(batch.user, batch.history, batch.target, strict=True):
            whole = HISTORIES[user]
            for item, following in zip(history, target, strict=True):
                assert (item == PADDING) == (following == PADDING)
                if item != PADDING:
                    assert whole[whole.index(item) + 1] == following
                    seen.add((int(user), int(following)))
    assert seen == {(user, item) for user, whole in enumerate(HISTORIES) for item in whole[1:]}


def test_pairwise_negatives_are_not_positives():
    for batch in batches("prompt", 10, kind="pairwise", num_negatives=5):
        assert batch.negative.shape == (3, 1, 5)
        for user, negatives in zip(batch.user, batch.negative[:, 0], strict=True):
            assert not set(negatives.tolist()) & set(HISTORIES[user])


def test_softmax_has_no_negatives():
    assert batches("prompt", 1)[0].negative.shape == (3, 1, 0)


@pytest.mark.parametrize("stage", list(Stage))
def test_stages_fill_their_parts_and_resume_exactly(stage):
    data = interactions(HISTORIES, 12)
    whole = list(train_batches(data, config=config(), stage=stage))
    assert len(whole) == 12
    parts = {field.name for field in dataclasses.fields(whole[0]) if getattr(whole[0], field.name) is not None}
    assert (
        parts
        == {
            Stage.COLLABORATIVE: {"pairs"},
            Stage.TOKENIZER: {"rows"},
            Stage.LLM: {"histories"},
            Stage.JOINT: {"pairs", "rows", "histories"},
        }[stage]
    )
    first = train_batches(data, config=config(), stage=stage)
    for _ in range(5):
        next(first)
    second = train_batches(data, config=config(), stage=stage)
    second.set_state(first.get_state())
    for expected, batch in zip(whole[5:], second, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, expected)
