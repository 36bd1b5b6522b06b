import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation.test_protocols import make
from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.config import PROTOCOLS, EvaluationConfig
from tokenrec_jax.data.interactions import training_part
from tokenrec_jax.data.reference_layout import read_reference_layout
from tokenrec_jax.evaluation.comparability import (
    PROTOCOL_NOTICES,
    REFERENCE_HISTORY,
    evaluated_part,
    protocol_interactions,
)
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.types import ConfigError, Split

LONG = REFERENCE_HISTORY + 9
HISTORIES = [list(range(LONG)), [70, 65, 80, 60], list(range(REFERENCE_HISTORY))]


def targets(data, split, protocol):
    part = evaluated_part(data, split, protocol)
    (batch,) = evaluation_batches(part.interactions, part.split, max_history=5, batch_size=len(HISTORIES))
    return batch.target.tolist()


def test_honest_is_the_plain_split():
    data = make(HISTORIES)
    assert protocol_interactions(data, "honest", 0) is data
    assert targets(data, Split.VALID, "honest") == [LONG - 2, 80, REFERENCE_HISTORY - 2]
    assert training_part(data, EvaluationConfig(protocol="honest")).history(1).tolist() == [70, 65]


def test_under_reference_the_target_of_a_long_history_was_trained_on_and_both_splits_are_test():
    data = make(HISTORIES)
    found = targets(data, Split.TEST, "reference")
    assert found == [REFERENCE_HISTORY - 1, 60, REFERENCE_HISTORY - 1]
    assert targets(data, Split.VALID, "reference") == found
    training = training_part(protocol_interactions(data, "reference", 0), EvaluationConfig(protocol="reference"))
    trained_on = [target in training.history(user) for user, target in enumerate(found)]
    assert trained_on == [True, False, False]
    assert len(training.history(0)) == LONG - 1


def test_only_ties_are_shuffled():
    times = np.array([1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 9, 9], np.int64)
    data = dataclasses.replace(make([range(8), range(8, 17)]), timestamps=times)
    shuffled = protocol_interactions(data, "ties_shuffled", 0)
    first, second = shuffled.history(0).tolist(), shuffled.history(1).tolist()
    # All of one moment: another order of the same items.
    assert sorted(first) == list(range(8)) != first
    assert second[0] == 8 and sorted(second[1:7]) == list(range(9, 15)) != second[1:7]
    assert sorted(second[7:]) == [15, 16]
    assert shuffled.timestamps is times
    again, other = (protocol_interactions(data, "ties_shuffled", seed).items.tolist() for seed in (0, 1))
    assert again == shuffled.items.tolist() != other
    apart = dataclasses.replace(data, timestamps=np.arange(17))
    np.testing.assert_array_equal(protocol_interactions(apart, "ties_shuffled", 0).items, data.items)


def test_without_times_the_excess_of_ascending_ids_is_ties():
    # As text 10 would stand before 9. All ascend but one: nearly all of it may be a tie.
    data = make([[5, 6, 9, 10, 11, 12, 20], [30, 40, 41, 42, 99, 3, 7]])
    orders = {tuple(protocol_interactions(data, "ties_shuffled", seed).items) for seed in range(50)}
    assert len(orders) > 45
    # What descends is true: the five items before it stay before it.
    assert {tuple(sorted(order[7:12])) for order in orders} == {(30, 40, 41, 42, 99)}
    assert {tuple(sorted(order[12:])) for order in orders} == {(3, 7)}
    up_and_down = make([[1, 2, 0, 5, 3, 4, 1], [7, 8, 6, 9, 5]])
    for seed in range(5):
        found = protocol_interactions(up_and_down, "ties_shuffled", seed)
        np.testing.assert_array_equal(found.items, up_and_down.items)


def test_on_beauty_the_next_item_can_no_longer_be_told_by_its_id(shared_data):
    data = read_reference_layout(shared_data / "Beauty", name="Beauty")
    ids = np.array(data.item_ids)

    def ascending(interactions):
        last = interactions.indptr[1:] - 1
        return np.mean(ids[interactions.items[last]] > ids[interactions.items[last - 1]])

    assert ascending(data) == pytest.approx(0.71, abs=0.01)
    assert ascending(protocol_interactions(data, "ties_shuffled", 0)) == pytest.approx(0.55, abs=0.01)


def test_all_protocols_but_the_honest_one_say_so():
    assert [name for name in PROTOCOLS if not PROTOCOL_NOTICES[name]] == ["honest"]
    assert "WARNING" in PROTOCOL_NOTICES["reference"]
    with pytest.raises(ConfigError, match=r"evaluation\.protocol is 'fair'; allowed: honest, reference, ties_shuffled"):
        protocol_interactions(make(HISTORIES), "fair", 0)


def test_reference_flatters_the_released_vectors_as_published(shared_data):
    data = read_reference_layout(shared_data / "LastFM", name="LastFM")
    with np.load(shared_data / "LastFM" / "lgn_official_64.npz") as released:
        score = dot_product(jnp.asarray(released["user"]), jnp.asarray(released["item"]))
    for protocol, expected in (("honest", 0.0385), ("reference", 0.0890)):
        part = evaluated_part(data, Split.TEST, protocol)
        batches = evaluation_batches(part.interactions, part.split, max_history=1, batch_size=512)
        found = evaluate(score, batches, num_items=data.num_items, cutoffs=(10,))
        assert found.metrics["hr@10"] == pytest.approx(expected, abs=5e-5)
